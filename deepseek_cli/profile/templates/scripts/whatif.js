// The formula behind the sliders; whatif.py has the same, and a test holds them equal. Pure: node's tests load this file alone.

// Bytes of the KV cache of one row of a batch.
function cacheBytes(model, context, kv) {
  return model.kinds.reduce((sum, kind) => {
    const tokens = Math.min(context, kind.window || context);
    return sum + kind.layers * tokens * (kind.values_per_token * model.kv[kv] + kind.rows_per_token * (model.scale_bytes[kv] || 0));
  }, 0);
}

function need(model, { context, batch, kv, scheme }) {
  const parts = {
    weights: model.schemes[scheme],
    kv: batch * cacheBytes(model, context, kv),
    activations: batch * (model.activation.fixed_bytes + model.activation.bytes_per_token * context),
    runtime: model.runtime_bytes,
  };
  return { ...parts, total: parts.weights + parts.kv + parts.activations + parts.runtime };
}

// The longest context that is within `usable` bytes; 0 where none is.
function largestContext(model, choice, usable) {
  const fits = (context) => need(model, { ...choice, context }).total <= usable;
  if (fits(model.longest_context)) return model.longest_context;
  let low = 0, high = model.longest_context;  // low fits, or is 0
  while (high - low > 1) {
    const middle = Math.floor((low + high) / 2);
    if (fits(middle)) low = middle; else high = middle;
  }
  return low;
}

// A slider's 0 … 1 as a context from `least` to `most`, evenly in powers of two; and back.
function contextAt(position, least, most) {
  return Math.round(least * (most / least) ** position);
}

function positionOf(context, least, most) {
  return most > least ? Math.log(context / least) / Math.log(most / least) : 0;
}
