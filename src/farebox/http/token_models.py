"""Access tokens that are limited to certain models: calls to other models are refused before anything is held."""

import re

from farebox.calls.model import Call
from farebox.calls.policy_check import apply_policies
from farebox.errors import MODEL_NOT_ALLOWED, Problem
from farebox.model import AccessToken
from farebox.policies.decide import Policies
from farebox.providers.catalogue import format_of
from farebox.providers.provider import FREE
from farebox.providers.reading import ParsedBody
from farebox.quoting import quoted

_counts_tokens = re.compile(r"models/(?P<model>[^/:]+):countTokens$").search


def check_model(token: AccessToken, known: Call, read: ParsedBody) -> None:
    """Raises Problem if the call may reach a model that the token does not allow. A call that cannot be read is
    refused, unless it is only a query."""
    parsed, provider = read.parsed, known.provider
    if read.named is not None and read.named.ambiguous:
        words = (
            "The body names its model twice or in another case: the access token is limited, so send `model` just once."
        )
        raise Problem(MODEL_NOT_ALLOWED, words)
    if parsed is None:
        if known.method in ("GET", "HEAD"):
            return
        model = _counted_model(known, read)
        if not model:
            raise Problem(
                MODEL_NOT_ALLOWED,
                f"The access token is limited to certain models, and {quoted(known.path)} names none.",
            )
        models = [model]
    else:
        models = [parsed.model, *(further.model for further in parsed.demand.further_models if further.model)]
    refused = [model for model in models if not token.may_call(provider, model)]
    if refused or (parsed is not None and parsed.unmetered):
        what = ", ".join(f"{provider}/{model}" for model in refused) or (parsed and parsed.unmetered)
        raise Problem(MODEL_NOT_ALLOWED, f"The access token may not be used for this: {what}.")


def _counted_model(known: Call, read: ParsedBody) -> str:
    """The model of a free call that reaches no other one, such as token counting; otherwise empty."""
    if format_of(known.access.provider, known.method, known.path) is not FREE:
        return ""
    in_path = _counts_tokens(known.path)
    return in_path["model"] if in_path else "" if read.named is None else read.named.model


def check_policies(policies: Policies, call: Call, token: AccessToken | None, read: ParsedBody) -> Call:
    """The call with the limits of its gateway's policies. Raises Problem if they refuse it."""
    counted = _counted_model(call, read) if read.parsed is None else ""
    ambiguous = read.named is not None and read.named.ambiguous
    return apply_policies(policies, call, token, counted, ambiguous=ambiguous)
