"""A client's side of differential privacy: what it sends is clipped before it leaves."""

from __future__ import annotations

from flwr.app import Context, Message
from flwr.clientapp.mod import fixedclipping_mod
from flwr.clientapp.typing import ClientAppCallable


def clip_update(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Scale the client's change of the shared tensors, all of them together, down to the norm
    ``privacy.clipping-norm`` where that is not 0: a Flower mod around ``train``.

    The norm stands in the server's message. Where it does not, but the run's settings ask for
    clipping, Flower's mod answers an error and nothing leaves the client.
    """
    if float(context.run_config.get("privacy.clipping-norm", 0.0)) == 0:
        return call_next(message, context)
    replies: list[Message] = []

    def trained(asked: Message, its_context: Context) -> Message:
        replies.append(call_next(asked, its_context))
        return replies[-1]

    try:
        return fixedclipping_mod(message, context, trained)
    except ZeroDivisionError:
        if not replies:
            raise
        return replies[-1]  # It divides by the norm of a change: nothing has changed.
