"""Policies in formats that run without this package: ONNX, and archives of torch.export.

- ``write``: export a policy, compare it with the files, describe them.
- ``parts``: the policy in parts that can be traced.
- ``onnx_graphs``: the parts as ONNX graphs, joined to models.
- ``precision``: their networks in fp16 and int8.
- ``torch_archive``: the policy as archives of torch.export.
- ``running``: exported files in the place of the policy.
- ``checks``: parity and latency.
- ``texts``: the README and the program beside the files.
- ``place``: the folder of an export.
- ``errors``: what can go wrong.
"""
