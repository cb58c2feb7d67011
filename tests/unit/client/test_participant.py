"""What travels of a client's adapter, and what cannot."""

import pytest
from clients import client_of

from potara_flwr.client.participant import encode_update
from potara_flwr.core.errors import TrainingError


def test_numbers_that_a_transport_does_not_hold_are_not_sent(tiny):
    for transport in ("float16", "bfloat16", "float32", "int8"):
        client = client_of(tiny({"federation.transport": transport}))
        initial = client.model.initial
        large = {name: tensor + 7e4 for name, tensor in initial.items()}
        if transport == "float16":
            with pytest.raises(TrainingError, match=r"beyond .* float16 holds; .*=bfloat16$"):
                encode_update(client, large, initial, {})
        else:
            encode_update(client, large, initial, {})
