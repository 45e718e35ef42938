"""What GroupQueryAttention is told of a cache in int8: a scale for each channel of keys and values, at the end of its inputs."""

BY_CHANNEL = {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
BEFORE_SCALES = 9  # inputs, up to the rotary tables
BETWEEN = 3  # inputs that are left out: position ids, bias and sinks
