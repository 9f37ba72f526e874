"""The wizard "Create custom model": base model, training data, validation data, options, review."""

from tunery.studio.pages.create import page

__all__ = ["page"]
