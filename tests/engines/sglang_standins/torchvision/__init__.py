"""Stands in for torchvision, whose wheels beside torch's CPU build cannot be imported.

SGLang and transformers import it for image models. No image is handled here.
"""

from torchvision import io, transforms

__all__ = ["io", "transforms"]
__version__ = "0.28.0+cpu"
