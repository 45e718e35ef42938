"""Each of MKL's vector functions, called once by one thread.

MKL chooses a function's kernel at its first call. Where several threads are the first, some of them may meet a kernel of a few
digits, for that call only (github.com/pytorch/pytorch/issues/188792): cosines were .00015 off in one run of five, and the same
quantization gave other bits. Importing this module puts that behind a process.
"""

import torch

FUNCTIONS = (
    *(torch.acos, torch.asin, torch.atan, torch.cos, torch.cosh, torch.sin, torch.sinh, torch.tan, torch.tanh),
    *(torch.exp, torch.exp2, torch.expm1, torch.log, torch.log10, torch.log1p, torch.log2, torch.sqrt),
    *(torch.erf, torch.erfc, torch.erfinv, torch.lgamma),
)

for function in FUNCTIONS:
    for dtype in (torch.float32, torch.float64):
        function(torch.tensor([0.5], dtype=dtype))
