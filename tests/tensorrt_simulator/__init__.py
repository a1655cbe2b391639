"""TensorRT and the CUDA runtime as this project calls them, strict about NVIDIA's rules, computing with ONNX Runtime.

`cuda.py` is a GPU with memory of its own and streams that work only when they are waited for; `library.py` is the
module tensorrt of one version, which shows only what that version has; `graph.py` reads and runs the ONNX file behind
an engine. What a real library would take without a word and get wrong, such as a copy from memory that is not
page-locked, raises `RuleBrokenError`, which no code of the project catches.
"""
