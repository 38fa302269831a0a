"""The cycles of a token on any chip."""

from hdl.config import ChipConfig
from hdl.cycles.token import TokenCycles, token_cycles
from hdl.engine.cycles import shared_token_cycles
from weights_to_rom.model_format import ModelFormat


def predict_token(model: ModelFormat, config: ChipConfig, context: int, *, sample: bool = True) -> TokenCycles:
    """Predict a token that makes its context ``context`` positions long; with ``sample`` it goes through the LM head.

    Raises ValueError for a context that the chip does not hold.
    """
    return (shared_token_cycles if config.shared else token_cycles)(model, config, context, sample=sample)
