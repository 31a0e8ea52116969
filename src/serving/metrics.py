"""Numbers for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CLIPS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """The numbers of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        status = ["model", "status"]
        self.requests = Counter("alarm_requests", "Chat requests by model and HTTP status", status, registry=here)
        self.admitted = Gauge("alarm_requests_admitted", "Requests that are worked on", registry=here)
        self.running = Gauge("alarm_requests_running", "Requests in the engine", registry=here)
        self.waiting = Gauge("alarm_requests_waiting", "Requests that wait for the engine", registry=here)
        self.prompt_tokens = Counter("alarm_prompt_tokens", "Tokens and embedding rows of prompts", registry=here)
        self.completion_tokens = Counter("alarm_completion_tokens", "Tokens of responses", registry=here)
        self.reasoning_tokens = Counter("alarm_reasoning_tokens", "Those of thoughts among them", registry=here)
        self.budget_hits = Counter("alarm_thinking_budget_hits", "Thoughts closed at their budget", registry=here)
        self.audio_seconds = Counter("alarm_audio_seconds", "Seconds of audio received", registry=here)
        self.batches = Histogram("alarm_encode_batch_clips", "Clips encoded together", buckets=CLIPS, registry=here)
        self.prepared = self._seconds("alarm_prepare_seconds", "Decoding and encoding of clips")
        self.first_token = self._seconds("alarm_first_token_seconds", "To the first text of a response")
        self.seconds = self._seconds("alarm_request_seconds", "To the end of a response")

    def _seconds(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, buckets=SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
