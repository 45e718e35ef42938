"""What a bundle's second graph, the layer that drafts, is called, what goes into it, and what the model's graph gives for it."""

DRAFT = "draft.onnx"
HIDDEN = "hidden"  # output of the model: what its head is fed from, of all positions
STATES = "states"  # input of the draft: these, each beside the token behind it
