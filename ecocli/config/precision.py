"""Number formats that inference offers."""

from typing import Literal

InferencePrecision = Literal["float32", "bfloat16"]
"""``bfloat16`` runs the network's products in it, under autocast; weights, norms and what follows stay float32."""

GraphPrecision = Literal["float32", "bfloat16", "int8"]
"""What exported graphs compute in; ``int8`` by weights and activations quantised after training, norms in float32."""
