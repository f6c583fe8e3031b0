"""Any diffusers pipeline as a differentiable function of its noise: the heart of the samplers.

`options`, `folder`, `lora` and `memory` import nothing heavy: checking a configuration reaches
them. The other files hold tensors.
"""
