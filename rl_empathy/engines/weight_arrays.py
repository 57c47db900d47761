"""Named tensors as arrays that Ray's object store shares without a copy, and back. Knows no vLLM."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from rl_empathy.errors import ModelError
from rl_empathy.types import PolicyVersion


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Every tensor of one policy version once, under its name in transformers.

    numpy has no bfloat16, so arrays of two-byte numbers travel as their bits and `dtypes` names what they are.
    """

    version: PolicyVersion
    arrays: Mapping[str, np.ndarray]
    dtypes: Mapping[str, str]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], version: PolicyVersion) -> "PublishedWeights":
        """Wrap tensors without copying them where they are contiguous and on the CPU."""
        arrays, dtypes = {}, {}
        for name, tensor in tensors.items():
            held = tensor.detach().cpu().contiguous()
            dtypes[name] = str(held.dtype).removeprefix("torch.")
            arrays[name] = (held.view(torch.int16) if held.dtype == torch.bfloat16 else held).numpy()
        return cls(version=version, arrays=arrays, dtypes=dtypes)

    @classmethod
    def from_folder(cls, folder: Path, version: PolicyVersion) -> "PublishedWeights":
        """The weights of a transformers folder.

        Raises:
            ModelError: The folder holds no safetensors.
        """
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors |= load_file(file)
        if not tensors:
            raise ModelError(f"no *.safetensors in {folder}")
        return cls.of(tensors, version)

    def tensors(self) -> dict[str, Tensor]:
        """The same memory as tensors, to be read only."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return {
                name: torch.from_numpy(array).view(getattr(torch, self.dtypes[name]))
                for name, array in self.arrays.items()
            }
