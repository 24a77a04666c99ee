"""A reasoner that is somebody else's server: the model behind an OpenAI-compatible endpoint (vLLM, SGLang, others).

Sends token ids, so that every engine reads the same prompt. Knows nothing of queries or caches; `load_reasoner` makes
one. All requests are on one event loop in a thread of its own: many are in flight at once, and dropping them is quick.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from pipeline.errors import ModelError, SettingsError
from pipeline.model.endpoint_address import checked_base, read_key
from pipeline.model.endpoint_client import EndpointClient, Failed, without_surrogates
from pipeline.model.reasoner import Completion, Request
from pipeline.model.reasoning import ReasonerBundle
from pipeline.records import FinishReason
from pipeline.retry import Patience

# Enough to fill the batch of a server on one accelerator; more would wait in its queue while their timeouts run.
MAX_IN_FLIGHT = 64
# A rate limit may ask for a minute's wait, and a request that timed out deserves a second try.
PATIENCE = Patience(attempts=8, deadline_s=900.0, first_wait_s=1.0, max_wait_s=60.0)
# Longer than this and the server hangs: a wait for others to finish first, then at least four tokens a second.
_WAIT_S = 300.0
_TOKEN_S = 0.25
_LOOK_S = 0.1  # how often a waiting caller looks whether it is still wanted

_STOPPED = frozenset({"stop", "eos", "eos_token", "stop_sequence"})  # OpenAI's word first; then what others say
_CUT = frozenset({"length", "max_tokens"})
# Words, digits and other scripts: two tokenizers seldom agree on all of it.
_PROBE = "Photosynthesis in 1779, reasoned about: naïve Überlegung, 光合作用 & f(x) != 3.14"

Answer = TypeVar("Answer")


class EndpointReasoner:
    """Completions of the model that `--reasoner` names, from the server at `--endpoint`."""

    def __init__(
        self,
        bundle: ReasonerBundle,
        *,
        patience: Patience = PATIENCE,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
    ) -> None:
        """Asks whether the endpoint is there, and whether its model reads our token ids.

        Args:
            bundle: Of engine "openai".
            patience: With a request that fails.
            timeout_s: For one attempt, in seconds; by `max_tokens` when None.
            deadline_s: For these first questions together, in seconds; as `patience` has it when None.

        Raises:
            ModelError: it does not answer, refuses the key, or has another tokenizer.
            SettingsError: the URL holds a secret, or is none.
        """
        if not (bundle.settings.endpoint and bundle.settings.model):
            raise SettingsError("engine openai needs --endpoint URL and --reasoner NAME, the model that it serves")
        self._model = bundle.settings.model
        self._timeout_s = timeout_s
        base, key = checked_base(bundle.settings.endpoint), read_key()
        self._client = EndpointClient(base, key=key, max_connections=MAX_IN_FLIGHT, patience=patience)
        self._loop = asyncio.new_event_loop()
        # A daemon: whoever forgets to close must still be able to end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        try:
            self._await(self._greet(bundle, base, deadline_s))
        except BaseException:
            self.close()
            raise

    def generate(
        self, requests: Sequence[Request], *, cancelled: threading.Event | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """As in `Reasoner`; stopping early drops what is in flight."""
        finished: SimpleQueue[tuple[int, Completion] | Exception] = SimpleQueue()
        run = asyncio.run_coroutine_threadsafe(self._ask_all(requests, finished.put), self._loop)
        try:
            for _ in requests:
                found = _wait(finished, cancelled)
                if found is None:
                    return
                if isinstance(found, Exception):
                    raise found
                yield found
        finally:
            run.cancel()

    def close(self) -> None:
        """Drops what is in flight, closes the connections and ends the thread; may be called twice."""
        if self._loop.is_closed():
            return
        self._await(self._drop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _drop(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.close()

    async def _ask_all(
        self, requests: Sequence[Request], put: Callable[[tuple[int, Completion] | Exception], None]
    ) -> None:
        """Puts each completion as it comes; after an error, that alone."""
        places = asyncio.Semaphore(MAX_IN_FLIGHT)

        async def ask_one(position: int, request: Request) -> None:
            try:
                async with places:
                    put((position, await self._ask(request)))
            except Exception as error:
                put(error)
                raise

        try:
            async with asyncio.TaskGroup() as group:  # the first error cancels the others
                for position, request in enumerate(requests):
                    group.create_task(ask_one(position, request))
        except ExceptionGroup:
            pass  # put already
        except asyncio.CancelledError:
            put(ModelError("the reasoner was closed while it was asked"))  # nobody waits for ever
            raise

    async def _ask(self, request: Request) -> Completion:
        timeout_s = self._timeout_s or _WAIT_S + _TOKEN_S * request.sampling.max_tokens
        found = await self._client.complete(_body(self._model, request), timeout_s=timeout_s)
        if isinstance(found, Failed):
            return Completion("", 0, FinishReason.ERROR, found.detail)
        return _completion(found)

    async def _greet(self, bundle: ReasonerBundle, base: str, deadline_s: float | None) -> None:
        try:
            async with asyncio.timeout(deadline_s):
                await self._client.list_models()
                await self._check_tokenizer(bundle, base)
        except TimeoutError as error:
            raise ModelError(f"{base} does not answer within {deadline_s:.3g} s; is the server up?") from error

    async def _check_tokenizer(self, bundle: ReasonerBundle, base: str) -> None:
        """Ids of another vocabulary would give fluent nonsense that nobody could tell from a poor model."""
        theirs = await self._client.tokenise(self._model, _PROBE)
        if theirs is not None and theirs != bundle.tokenizer.encode([_PROBE])[0]:
            raise ModelError(
                f"{base} serves {self._model!r} with another tokenizer than that of {bundle.checkpoint.source}, so "
                "it would misread every prompt; serve the model that embeds, or use another engine"
            )


def _body(model: str, request: Request) -> dict[str, Any]:
    """Of POST /completions; a field that not every server knows only where it says something."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": model,
        "prompt": list(request.prompt_ids),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed,
        "n": 1,
    }
    if sampling.top_k > 0:
        body["top_k"] = sampling.top_k  # an extension of vLLM, which others have taken up
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    return body


def _completion(choice: dict[str, Any]) -> Completion:
    """What a choice, with the answer's `usage` in it, says."""
    text, said = without_surrogates(str(choice.get("text") or "")).strip(), choice.get("finish_reason")
    written = choice["usage"].get("completion_tokens") or 0
    if said in _CUT:
        return Completion(text, written, FinishReason.LENGTH)
    if said in _STOPPED:  # servers count the token that ended it
        return Completion(text, max(written - 1, 0), FinishReason.STOP if text else FinishReason.EMPTY)
    return Completion("", 0, FinishReason.ERROR, f"the endpoint ended this one with finish_reason {said!r}")


def _wait(finished: SimpleQueue[Answer], cancelled: threading.Event | None) -> Answer | None:
    """What comes next; None once nobody wants it."""
    while cancelled is None or not cancelled.is_set():
        try:
            return finished.get(timeout=None if cancelled is None else _LOOK_S)
        except Empty:
            continue
    return None
