"""What Prometheus scrapes."""

import prometheus_client as prometheus

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counters and histograms of a server, in a registry of their own."""

    def __init__(self):
        self.registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self.registry)
        prometheus.PlatformCollector(registry=self.registry)
        self._requests = prometheus.Counter(
            "kgen_requests",
            "Requests that were answered",
            ("model", "endpoint", "protocol", "status"),
            registry=self.registry,
        )
        self._seconds = prometheus.Histogram(
            "kgen_request_seconds",
            "From the head of a request to the end of its answer",
            ("model", "endpoint", "protocol"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_seconds = prometheus.Histogram(
            "kgen_batch_seconds",
            "A batch in the runtime",
            ("model", "version", "endpoint"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._batch_rows = prometheus.Histogram(
            "kgen_batch_rows",
            "Images of a batch",
            ("model", "version", "endpoint"),
            buckets=_ROWS,
            registry=self.registry,
        )
        self._refused = prometheus.Counter(
            "kgen_versions_refused",
            "Artifacts that were not taken up, for they were not in order",
            registry=self.registry,
        )

    def of_batches(self, model, version, endpoint):
        """A callable `(rows, seconds)` that counts a batch."""
        seconds = self._batch_seconds.labels(model, version, endpoint)
        sizes = self._batch_rows.labels(model, version, endpoint)

        def observe(rows, took):
            seconds.observe(took)
            sizes.observe(rows)

        return observe

    def answered(self, model, endpoint, protocol, status, seconds):
        self._requests.labels(model, endpoint, protocol, status).inc()
        self._seconds.labels(model, endpoint, protocol).observe(seconds)

    def refused(self):
        self._refused.inc()

    def waiting_of(self, service):
        """Shows how many rows of `service` wait, whenever it is scraped."""
        self.registry.register(_Waiting(service))

    def text(self):
        """The exposition, bytes."""
        return prometheus.generate_latest(self.registry)


class _Waiting:
    def __init__(self, service):
        self._service = service

    def describe(self):
        return []

    def collect(self):
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(
            "kgen_waiting_rows", "Rows that wait", labels=("model", "version", "endpoint")
        )
        for name, versions in list(self._service.models.items()):
            for number, version in list(versions.items()):
                for endpoint, rows in version.waiting.items():
                    family.add_metric((name, str(number), endpoint), rows)
        yield family
