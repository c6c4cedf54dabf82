"""Re-export the models with torch, transformers and Keras, and rewrite the skeletons.

Nothing outside this folder imports those frameworks, and nothing here is imported on the default path.
One module per recipe, of the same name; each has `exports()`, a generator of `common.Export`.
"""

from importlib.util import find_spec


def declare_detection_operators() -> None:
    """Let torchvision be imported beside a CPU build of torch.

    PyPI's torchvision holds a library built for torch with CUDA. Elsewhere it does not load, and then the import fails
    at the two operators of that library that it looks up by name. No classifier uses them: a declaration is enough.
    transformers imports torchvision wherever it is installed, so this comes before everything else.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[object] = []  # a library that is collected takes its declarations with it

if find_spec("torchvision") is not None:
    declare_detection_operators()
