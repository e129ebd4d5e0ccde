"""Number formats that inference offers."""

from typing import Literal

InferencePrecision = Literal["float32", "bfloat16"]
"""``bfloat16`` runs the network's products in it, under autocast; weights, norms and what follows stay float32."""
