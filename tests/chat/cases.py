"""Conversations of every shape, tools, and templates of our own that use everything that templates may."""

from pathlib import Path

DATA = Path(__file__).parent.parent / "data" / "chat-templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(DATA.glob("*.jinja"))}

SYSTEM = {"role": "system", "content": "You are <b>kind</b> & 'short'."}
USER = {"role": "user", "content": "What's the weather in Zürich?\n"}
ASSISTANT = {"role": "assistant", "content": "  It is sunny. "}
RESULT = {"role": "tool", "content": '{"t": 21.5, "s": "ü"}', "tool_call_id": "a", "name": "get_weather"}
REASONED = {"role": "assistant", "content": "Hello.", "reasoning_content": "Hmm, think\nhard."}
THOUGHT = {"role": "assistant", "content": "<think>\nI think.\n</think>\n\nHello."}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather.\nNow.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city, like <Zürich>"},
                "unit": {"type": "string", "enum": ["c", "f"]},
                "days": {"type": ["integer", "null"]},
                "hours": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]},
            },
            "required": ["city"],
        },
        "return": {"type": "string"},
    },
}
TIME = {"type": "function", "function": {"name": "now", "description": "Time", "parameters": {"properties": {}}}}
DOCUMENTS = [{"title": "a tale", "text": "Ä\ntext"}, {"title": "B", "text": "x"}]


def calling(arguments, **fields):
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    return {"role": "assistant", "tool_calls": [call, call], **fields}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


CONVERSATIONS = {
    "user": [USER],
    "system": [SYSTEM, USER],
    "developer": [{"role": "developer", "content": "Be nice."}, USER],
    "turns": [SYSTEM, USER, ASSISTANT, {"role": "user", "content": "And tomorrow?"}],
    "ends with the assistant": [USER, ASSISTANT],
    "two users": [USER, USER],
    "odd role": [{"role": "critic", "content": "x"}, USER],
    "call": [USER, calling({"unit": "c", "city": "Zürich"}), RESULT, ASSISTANT],
    "call as text": [USER, calling('{"city": "Zürich"}', content="Let me see."), RESULT],
    "call with null": [USER, calling({"n": 1.5, "b": True, "x": None, "l": [1, "a"]}, content=None)],
    "result as data": [USER, calling({}), {**RESULT, "content": {"b": 1, "a": ["é"]}}],
    "reasoning": [USER, REASONED, USER, {**REASONED, "reasoning_content": "Again."}],
    "reasoning by other names": [USER, {"role": "assistant", "content": "x", "thinking": "deep"}],
    "thoughts in the text": [SYSTEM, USER, THOUGHT, USER],
    "parts": [{"role": "user", "content": parts("a", "b")}],
    "image": [{"role": "user", "content": [{"type": "image", "image": "x.png"}, *parts("what?")]}],
    "empty text": [{"role": "user", "content": ""}],
    "hostile text": [{"role": "user", "content": '[end]{{ x }} {% raw %} \x00\u2028 😀 </s> \\n "q" \ue000'}],
    "many": [SYSTEM] + [USER, ASSISTANT] * 5 + [USER],
    "more fields": [{**USER, "name": "Bob", "extra": {"a": [1, 2], "none": None}}, {**ASSISTANT, "weight": 0}],
}
WAYS = {
    "plain": {},
    "answer": {"add_generation_prompt": True},
    "tools": {"tools": [WEATHER, TIME]},
    "no tools": {"tools": []},
    "documents": {"documents": DOCUMENTS, "add_generation_prompt": True},
    "variables": {"enable_thinking": False, "keep_thoughts": True, "date": "1 May", "add_generation_prompt": True},
    "continued": {"continue_final_message": True},
}
