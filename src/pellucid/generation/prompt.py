"""A text or a conversation as the ids that a model reads."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


def is_conversation(prompt: Any) -> bool:
    """Tell whether something is a list of messages, `{"role": ..., "content": ...}`."""
    messages = isinstance(prompt, list | tuple) and all(isinstance(m, Mapping) and "role" in m for m in prompt)
    return messages and len(prompt) > 0


def prompt_ids(tokenizer: "Tokenizer", prompt: Any, *, add_special_tokens: bool = True, **template: Any) -> list[int]:
    """Return the ids of one prompt.

    Args:
        tokenizer: with a chat template, for conversations.
        prompt: a text, or the messages of a conversation.
        add_special_tokens: whether to put the model's special tokens around a text. Where the text begins with the
            beginning-of-text token already, it gets no second one.
        template: arguments of `apply_chat_template`; by default the prompt ends where the assistant's answer begins.

    Raises:
        InputError: if it is neither, or is a conversation and there is no chat template.
        TemplateError: if the template fails on the conversation.
    """
    if is_conversation(prompt):
        arguments: dict[str, Any] = {"add_generation_prompt": not template.get("continue_final_message")} | template
        return tokenizer.apply_chat_template(prompt, return_dict=False, **arguments)
    if not isinstance(prompt, str):
        what = f"a list of {len(prompt)}" if isinstance(prompt, list) else f"{prompt!r:.60} ({type(prompt).__name__})"
        raise InputError(f"The prompt is {what}; expected one text, or the messages of one conversation.")
    ids = tokenizer(prompt, add_special_tokens=add_special_tokens)["input_ids"]
    twice = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id and prompt.startswith(str(tokenizer.bos_token))
    return ids[1:] if twice and add_special_tokens else ids
