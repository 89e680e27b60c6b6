"""Conversations to token ids: the chat template of a tokenizer, and what it says of who said what."""

from bisect import bisect_right
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pellucid.errors import ArgumentError, InputError

from .batch_encoding import BatchEncoding
from .vocabulary import Vocabulary

if TYPE_CHECKING:
    from pellucid.chat import Prompt

_ARGUMENTS = (
    *("conversation", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message"),
    *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs"),
)


class ChatTemplates(Vocabulary):
    """A tokenizer's way from a conversation to token ids."""

    chat_template: str | dict[str, str] | None

    if TYPE_CHECKING:

        def __call__(self, text: Any = None, text_pair: Any = None, **arguments: Any) -> BatchEncoding:
            """See `Tokenizer`."""
            ...

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Any = None,
        *,
        documents: Any = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **variables: Any,
    ) -> Any:
        """Turn a conversation, or a list of them, into what the model reads.

        Args:
            conversation: messages such as `{"role": "user", "content": "Hello"}`, or a list of such lists. A message
                may have more fields, of which the template knows the names: "tool_calls", "reasoning_content".
            tools: what the model may call: JSON schemas, or functions with type hints and a Google docstring.
            documents: dictionaries with "title" and "text", for templates that use them.
            chat_template: a template, or the name of one of the tokenizer's; the tokenizer's usual one if None.
            add_generation_prompt: whether to end with what begins the assistant's answer.
            continue_final_message: whether to end within the last message, so that the model goes on with it; the name
                of a field goes on with that one instead of "content".
            tokenize: whether to return ids; the text if not.
            padding: as in a call of the tokenizer.
            truncation: as in a call of the tokenizer.
            max_length: as in a call of the tokenizer.
            return_tensors: as in a call of the tokenizer.
            return_dict: whether to return all inputs of the model by name; the ids alone if not.
            return_assistant_tokens_mask: whether to return "assistant_masks" too, 1 where the assistant speaks; the
                template must tell, by `{% generation %}` blocks.
            tokenizer_kwargs: further arguments of the call of the tokenizer.
            variables: further variables of the template, such as `enable_thinking`.

        Returns:
            A `BatchEncoding`; a list of ids (of such lists for several conversations) or a tensor without
            `return_dict`; a text (a list of texts) without `tokenize`.

        Raises:
            ArgumentError: if an argument does not exist, and is not a variable of the template either.
            InputError: if a message, tool or document is malformed, or there is no such template.
            TemplateError: if the template is broken, refuses the conversation, or does too much.
        """
        from pellucid.chat import choose_template, read_conversations, render

        if return_assistant_tokens_mask and not (tokenize and return_dict):
            raise InputError(
                "return_assistant_tokens_mask is an entry of the dictionary: leave return_dict and tokenize True."
            )
        if continue_final_message and add_generation_prompt:
            raise InputError(
                "continue_final_message ends the prompt within the last message, and add_generation_prompt begins a "
                "new one after it. Take one of the two."
            )
        if continue_final_message and return_assistant_tokens_mask:
            raise InputError("return_assistant_tokens_mask needs whole messages. Leave continue_final_message out.")
        if variables.get("sanitize_control_tokens"):
            raise ArgumentError(
                "sanitize_control_tokens is not implemented. Take control tokens out of the messages first."
            )
        tools = list(tools) if hasattr(tools, "__next__") else tools
        template = choose_template(self.chat_template, chat_template, tools)
        conversations, batched = read_conversations(conversation)
        prompts = [
            render(
                template,
                messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                mark_assistant=return_assistant_tokens_mask,
                special_tokens=self.special_tokens_map,
                variables=variables,
                arguments=_ARGUMENTS,
            )
            for messages in conversations
        ]
        texts = [prompt.text for prompt in prompts]
        if not tokenize:
            return texts if batched else texts[0]
        arguments = {
            "add_special_tokens": False,  # the template writes them
            "padding": padding,
            "truncation": truncation,
            "max_length": max_length,
            "return_tensors": return_tensors,
            **(tokenizer_kwargs or {}),
        }
        if return_assistant_tokens_mask:
            return self._with_masks(prompts, batched, arguments)
        encoded = self(texts if batched else texts[0], **arguments)
        return encoded if return_dict else encoded["input_ids"]

    def get_chat_template(self, chat_template: str | None = None, tools: Any = None) -> str:
        """Return the template that `apply_chat_template` takes with these arguments.

        Raises:
            InputError: if there is none.
        """
        from pellucid.chat import choose_template

        return choose_template(self.chat_template, chat_template, tools)

    def _with_masks(self, prompts: "list[Prompt]", batched: bool, arguments: dict[str, Any]) -> BatchEncoding:
        tensors = arguments.pop("return_tensors")
        encoded = self([prompt.text for prompt in prompts], **arguments)
        rows = encoded.encodings or []
        samples = encoded.get("overflow_to_sample_mapping", range(len(rows)))
        data = dict(encoded)
        data["assistant_masks"] = [
            _assistant_mask(row.offsets, row.sequence_ids, prompts[sample].spans)
            for row, sample in zip(rows, samples, strict=True)
        ]
        if not batched and tensors is None and "overflow_to_sample_mapping" not in data:
            data = {name: values[0] for name, values in data.items()}
        return BatchEncoding(data, rows, tensor_type=tensors)


def _assistant_mask(
    offsets: list[tuple[int, int]], sequences: list[int | None], spans: list[tuple[int, int]]
) -> list[int]:
    """Return 1 for each token with a character in one of the spans, which are in order; 0 for others and padding."""
    ends = [end for _, end in spans]
    mask = []
    for (start, end), sequence in zip(offsets, sequences, strict=True):
        place = bisect_right(ends, start)
        mask.append(int(sequence is not None and place < len(spans) and spans[place][0] < end))
    return mask
