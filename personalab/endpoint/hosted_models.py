"""Whether the hosted models of a tier can be asked, before anything long begins: one short call each."""

from __future__ import annotations

import openai

from personalab.endpoint.client import MissingKeyError, shared_client
from personalab.endpoint.dialects import send
from personalab.endpoint.replies import NoContentError
from personalab.tiers import Tier

QUESTION = "Reply with the word yes."
MAX_TOKENS = 16  # the least that some servers take
TRIES = 2  # a name that is wrong is wrong at once; a busy server gets another chance


def hosted_models(tier: Tier) -> dict[str, str]:
    """Variable that names a model -> its id, for the models that `tier` asks an endpoint for."""
    found = {} if tier.answers_here else {"PERSONALAB_RESPONSE_MODEL": tier.response_model}
    return found if tier.judged_here else found | {"PERSONALAB_JUDGE_MODEL": tier.judge_model}


def check_hosted(tier: Tier) -> list[str]:
    """Ask every hosted model one word; a line for each that answered.

    Raises:
        ValueError: for the first that does not: the variable, the model, the server, what it said and what to do.
    """
    return [_asked(variable, model) for variable, model in hosted_models(tier).items()]


def _asked(variable: str, model: str) -> str:
    try:
        client = shared_client(model).with_options(max_retries=TRIES)
    except MissingKeyError as error:
        raise ValueError(f"{variable}={model!r} cannot be asked. {error}") from None
    where = client.base_url.copy_with(userinfo=b"")  # it may hold a password
    body = {"model": model, "max_tokens": MAX_TOKENS, "temperature": 0.0}
    try:
        reply = send(client, {**body, "messages": [{"role": "user", "content": QUESTION}]})
        if not reply.choices or reply.error or reply.choices[0].error:
            raise NoContentError(str(reply.error or (reply.choices and reply.choices[0].error) or "no choices"))
    except NoContentError as error:
        raise ValueError(f"{variable}={model!r} at {where} sends no chat completion: {error}") from None
    except openai.OpenAIError as error:
        cause = f" ({error.__cause__})" if error.__cause__ else ""
        what = f"{variable}={model!r} at {where}: {error}{cause}"
        raise ValueError(f"{what}\n{_advice(error, variable)}") from None
    return f"{variable}={model!r} answers at {where}"


def _advice(error: openai.OpenAIError, variable: str) -> str:
    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
        return "Set OPENROUTER_API_KEY or OPENAI_API_KEY to a key of this server, in the environment or in .env."
    if isinstance(error, openai.APIConnectionError):
        return "Set OPENAI_BASE_URL to a server that runs, in the environment or in .env."
    if isinstance(error, openai.NotFoundError | openai.BadRequestError):
        return f"Set {variable} to a model that this server has, or OPENAI_BASE_URL to a server that has this one."
    return "Try again later, or set OPENAI_BASE_URL to another server."
