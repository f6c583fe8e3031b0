"""This folder, put or linked into ComfyUI's `custom_nodes`, is a set of nodes."""

from .dno_comfyui import comfy_entrypoint

__all__ = ["comfy_entrypoint"]
