"""
A chat model for pages that need one: AI/ML API's with a key, else a stand-in.

The stand-in is no language model and writes nothing of its own. It is a small
server on this machine that speaks OpenAI's chat protocol, so that the
frameworks' real classes talk to it, and it only quotes what it was sent:

- Numbered sources in the prompt: the sentence that shares most words with the
  question, rare ones counting more, and the number of its source. If none
  shares any, as in another language, the beginning of the first source. A
  context between lines of hyphens counts as a source without a number.
- Documents to be rated: each gets as many points as it shares words.
- Tools: each is called once, in the order they are offered in, as soon as its
  arguments are known. A string is the question, or the choice that it names;
  a number is the first one that the latest tool gave. Then what they gave is
  quoted.
- A question about what "you found", "read" or "said" before: the sentence of
  the conversation so far that shares most words with it, without any tool.

So its answers show what reached the model, and nothing of what a model would
make of it.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any

from qwen_aiml import EmbeddingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

_SOURCE = re.compile(r"^(?:\[(\d+)\]|(?:Source|Document) (\d+):)", re.MULTILINE)
_CONTEXT = re.compile(r"^-{3,}$(.+?)^-{3,}$", re.MULTILINE | re.DOTALL)
_END_OF_SOURCES = re.compile(r"^(?:-{3,}|(?:Query|Question):)", re.MULTILINE)
_QUESTION = re.compile(r"^(?:Query|Question):\s*(.+)$", re.MULTILINE)
_LOOKING_BACK = re.compile(r"\byou\b[\w ]{0,12}\b(?:found|find|read|said|say)\b", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?;])\s+|(?<=[。！？])|\n\s*\n")
_ENDS = (".", "!", "?", ";", ":", "。", "！", "？")
_SHORTEST = 4  # letters of a word that counts: most of those that are everywhere are shorter
_MOST_POINTS = 10

_numbers = count(1)


def chat_connection(options: dict[str, Any]) -> dict[str, str]:
    """
    Choose AI/ML API's chat models if the embeddings are the service's, else start the stand-in, and say so.

    Args:
        options: What `connection` gave.

    Returns:
        ``base_url`` and ``api_key``.
    """
    if not options:
        config = EmbeddingConfig()
        return {"base_url": str(config.base_url), "api_key": config.secret.reveal()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    print("The chat model is a stand-in too: it only quotes what it is sent (chat_stand_in.py).")
    return {"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "stand-in"}


def reply(body: dict[str, Any]) -> dict[str, Any]:
    """
    Answer a conversation by the rules above.

    Args:
        body: That of a request for a chat completion.

    Returns:
        The assistant's message.
    """
    messages = body["messages"]
    last = max(place for place, message in enumerate(messages) if message["role"] == "user")
    prompt = _text(messages[last])
    question = (_QUESTION.findall(prompt) or [prompt])[-1].strip()
    results = [_text(message) for message in messages[last:] if message["role"] == "tool"]
    heard = [_text(message) for message in messages[:last] if message["role"] in {"tool", "assistant"}]
    if heard and _LOOKING_BACK.search(question):
        return _says(_best(question, list(enumerate(heard)))[1])
    called = [
        call["function"]["name"] for message in messages[last:] for call in message.get("tool_calls") or ()
    ]
    for tool in body.get("tools") or ():
        function = tool["function"]
        arguments = _arguments(function["parameters"], question, results)
        if function["name"] not in called and arguments is not None:
            return _calls(function["name"], arguments)
    if results:
        quoted = (f"{name} gave: {_sentences(text)[0]}" for name, text in zip(called, results, strict=False))
        return _says("\n".join(quoted))
    sources: dict[int, str] = {}
    for message in messages[: last + 1]:
        sources = _sources(_text(message)) or sources
    return _says(_from_sources(question, sources, rate="Relevance:" in prompt))


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _says(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _calls(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    call = {"id": f"call_{next(_numbers)}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def _arguments(parameters: dict[str, Any], question: str, results: list[str]) -> dict[str, Any] | None:
    """Fill in what a tool requires; None if something is not known."""
    filled: dict[str, Any] = {}
    for name in parameters.get("required", ()):
        schema = parameters["properties"][name]
        if "enum" in schema:
            known: list[Any] = [
                choice for choice in schema["enum"] if choice.casefold() in question.casefold()
            ]
        elif schema.get("type") == "integer":
            known = [int(number) for number in re.findall(r"\d+", results[-1])] if results else []
        else:
            known = [question]
        if not known:
            return None
        filled[name] = known[0]
    return filled


def _sources(text: str) -> dict[int, str]:
    """Find numbered sources. An example of how to cite comes before them: a new number 1 starts over."""
    found: dict[int, str] = {}
    for match in _SOURCE.finditer(text):
        number = int(match[1] or match[2])
        if number == 1:
            found.clear()
        rest = text[match.end() :]
        ends = [end.start() for pattern in (_SOURCE, _END_OF_SOURCES) if (end := pattern.search(rest))]
        found[number] = rest[: min(ends, default=len(rest))].strip()
    if not found and (context := _CONTEXT.search(text)):
        found[0] = context[1]
    return found


def _from_sources(question: str, sources: dict[int, str], *, rate: bool) -> str:
    if rate:
        points = {
            number: min(1 + len(_words(question) & _words(text)), _MOST_POINTS)
            for number, text in sources.items()
        }
        return "\n".join(f"Doc: {number}, Relevance: {given}" for number, given in points.items())
    if not sources:
        return "I was sent no sources."
    number, sentence = _best(question, list(sources.items()))
    return f"“{sentence}” [{number}]" if number else f"“{sentence}”"


def _best(question: str, sources: list[tuple[int, str]]) -> tuple[int, str]:
    """Choose the sentence of all sources that shares most words with the question."""
    asked = _words(question)
    spread = Counter(word for _, text in sources for word in asked & _words(text))
    sentences = [(number, sentence) for number, text in sources for sentence in _sentences(text)]
    return max(sentences, key=lambda found: sum(1 / spread[word] for word in asked & _words(found[1])))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) >= _SHORTEST}


def _sentences(text: str) -> list[str]:
    """Cut a text at the ends of its sentences; headings are left out."""
    parts = [" ".join(part.split()) for part in _SENTENCE_ENDS.split(text) if part.strip()]
    return [part for part in parts if part.endswith(_ENDS)] or parts or [""]


def _events(message: dict[str, Any], usage: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Tell an answer in pieces: its words one by one, a tool's call at once."""
    calls = message.get("tool_calls")
    if calls:
        yield {"choices": [{"index": 0, "delta": {**message, "tool_calls": [{"index": 0, **calls[0]}]}}]}
    for word in re.findall(r"\s*\S+", message["content"] or ""):
        yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": word}}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if calls else "stop"}]}
    yield {"choices": [], "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        """Answer a request for a chat completion, whole or as a stream."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self.send_error(404)
            return
        message = reply(body)
        sent, said = (len(json.dumps(part).split()) for part in (body["messages"], message))
        usage = {"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said}
        head = {"id": f"stand-in-{next(_numbers)}", "created": int(time.time()), "model": "chat-stand-in"}
        self.send_response(200)
        if body.get("stream"):
            self.send_header("content-type", "text/event-stream")
            self.send_header("connection", "close")
            self.end_headers()
            for event in _events(message, usage):
                self._write(f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **event})}\n\n")
            self._write("data: [DONE]\n\n")
            return
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
        }
        content = json.dumps({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content.encode())))
        self.end_headers()
        self._write(content)

    def _write(self, text: str) -> None:
        self.wfile.write(text.encode())
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Keep the page's output to itself."""
