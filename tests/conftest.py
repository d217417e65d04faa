"""What all tests share: two tiers, workers, processes of their own, and trained tiny models.

`pytest` runs the first tier, `pytest --all` the second one too: the tests marked `slow`, and
`pytest -m slow` those alone. A test of the second tier repeats at a second size, on many
samples, on several devices or against a peer what a test of the first tier holds already.

The costly parts are made once per worker and read by many tests:

- `tiny(name, num_classes=3)` is a trained tiny model with its images, files, artifact and
  drawings, see `Tiny`. Tests of one model run in one worker, so they all read one.
- `on_jax(code, *arguments)` runs code in one process of JAX that stays alive; `run_python` starts
  a process each time, for what needs a fresh one.
"""

import base64
import collections
import concurrent.futures
import contextlib
import functools
import gc
import hashlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# XLA compiles for seconds what runs for milliseconds; `XLA_FLAGS= pytest` optimises as users do.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
# As the command line has it: with several, two trainings from one seed part in the last bit.
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
# Workers share the cores: threads that wait for one cost ten times the work of small products.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

# Triton, which a torch for GPUs brings, crashes the process once TensorFlow is loaded
# (tensorflow/tensorflow#124205); the published metrics to test against do without it.
sys.modules.setdefault("triton", None)

# A shell that starts a job in the background has it ignore Ctrl-C, and so would all tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Tiers and workers -----------------------------------------------------------------------


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="the second tier, marked slow, too")
    parser.addoption(
        "--part",
        metavar="I/N",
        help="one of N parts, such as 1/3: what TensorFlow traces it keeps, and all tests in one "
        "process take 8 GB",
    )


#: Files of a few tests that take minutes each. They come first, one in each of three parts: else a
#: worker would begin with them when all others have ended.
LONG = ("tests/test_pages.py", "tests/training/test_distribution.py", "tests/cli/test_distill.py")


def pytest_configure(config):
    config.option.loadscopereorder = False  # the order is that of the next function


def pytest_collection_modifyitems(config, items):
    kept = list(items)
    if not (config.option.all or config.option.markexpr):
        kept = [item for item in kept if item.get_closest_marker("slow") is None]
    sizes = collections.Counter(scope_of(item.nodeid) for item in items)
    scopes = sorted(sizes, key=lambda scope: (scope not in LONG, -sizes[scope], scope))
    if config.option.part:
        part, parts = map(int, config.option.part.split("/"))
        scopes = scopes[part - 1 :: parts]
        kept = [item for item in kept if scope_of(item.nodeid) in scopes]
    kept.sort(key=lambda item: scopes.index(scope_of(item.nodeid)))
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept


def scope_of(nodeid):
    """A model's tests, or else those of a file: what shares what is costly."""
    file, _, test = nodeid.partition("::")
    folder, _, name = file.rpartition("/")
    if folder == "tests/zoo":  # "test_images_are_uint8[vae-3]"
        return re.search(r"\[(\w+)-", test)[1]
    if folder.startswith("tests/models"):
        return name.removeprefix("test_").removesuffix(".py")
    return file


def pytest_collection_finish():
    # Tracing makes objects by the million, and each time the collector would look at all that
    # TensorFlow has imported: a tenth of the time of the tests.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_xdist_make_scheduler(config, log):
    """A scope's tests run in one worker, see `scope_of`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByModel(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return scope_of(nodeid)

    return ByModel(config, log)


# Surroundings ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def data_dir():
    """The folder with real data; tests that need it are skipped without it."""
    folder = os.environ.get("KGEN_DATA_DIR")
    if not folder:
        pytest.skip("KGEN_DATA_DIR is not set: it names the folder with mnist.npz")
    return pathlib.Path(folder)


@pytest.fixture(scope="session")
def tensorflow_only():
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")


# Processes -------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def run_python():
    """Runs Python code in a process of its own, on a chosen Keras backend."""

    def run(code, *arguments, backend=None, check=True, timeout=300, env=None):
        environment = {**os.environ, **(env or {})}
        if backend:
            environment["KERAS_BACKEND"] = backend
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=timeout,
        )
        assert not check or result.returncode == 0, result.stderr[-3000:]
        return result

    return run


SERVER = """
import contextlib, io, json, os, sys, traceback
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
import kgen.models
kgen.models.registered()
for line in sys.stdin:
    code, *sys.argv[1:] = json.loads(line)
    printed, error = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(printed):
            exec(code, {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    print(json.dumps([printed.getvalue(), error]), file=answers, flush=True)
"""


@pytest.fixture(scope="session")
def on_jax():
    """Runs Python code on JAX, in one process for all that ask; returns what the code printed.

    `on_jax(code, *arguments)`; the code finds the arguments in `sys.argv[1:]`. The process has
    imported Keras and registered the zoo before, which takes most of the time of a small test.
    With `optimised=True` it is another one, in which XLA optimises as it does for users.
    """
    pytest.importorskip("jax")
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("w+"))

        @functools.cache
        def process(optimised):
            xla = {"XLA_FLAGS": ""} if optimised else {}
            return stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", SERVER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env={**os.environ, "KERAS_BACKEND": "jax", **xla},
                )
            )

        def run(code, *arguments, timeout=300, optimised=False):
            server = process(optimised)
            timer = threading.Timer(timeout, server.kill)
            timer.start()
            print(json.dumps([code, *map(str, arguments)]), file=server.stdin, flush=True)
            answer = server.stdout.readline()
            timer.cancel()
            if not answer:
                errors.seek(0)
                pytest.fail(f"The process of JAX has ended: {errors.read()[-3000:]}")
            printed, error = json.loads(answer)
            assert error is None, error
            return printed

        yield run


class FileServer(http.server.ThreadingHTTPServer):
    """A plain server of static files on 127.0.0.1: `url(folder)` is where it has a folder."""

    def __init__(self):
        self.folders = []
        super().__init__(("127.0.0.1", 0), self._handler)

    def url(self, folder):
        if folder not in self.folders:
            self.folders.append(folder)
        return f"http://127.0.0.1:{self.server_port}/{self.folders.index(folder)}/"

    def _handler(self, *arguments):
        folders = self.folders

        class Handler(http.server.SimpleHTTPRequestHandler):
            def translate_path(self, path):
                number, _, rest = path.removeprefix("/").partition("/")
                self.directory = str(folders[int(number)])
                return super().translate_path(f"/{rest}")

            def log_message(self, *said):
                pass

        return Handler(*arguments)

    def handle_error(self, *request):
        """A browser closes connections as it likes."""


@pytest.fixture(scope="session")
def file_server():
    """A `FileServer`."""
    with FileServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def chromium():
    """Path of a Chromium, or `None`: that of the system, or of `playwright install chromium`."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@pytest.fixture(scope="session")
def in_chromium():
    """Runs what a user does in headless Chromium, in one for all that ask.

    `in_chromium(function, url, **options)` opens a page of a context with these options, calls
    `function(page)` and returns its result. An error on the console, a request elsewhere, and
    what the content security policy refuses fail the test. Playwright has a thread of its own: its
    loop must not run where tests start others.
    """
    playwright = pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("needs Chromium")

    def start():
        browser = playwright.sync_playwright().start()
        # What runs as root, as in a container, has no sandbox.
        return browser, browser.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"] if os.geteuid() == 0 else []
        )

    def visit(browser, function, url, allowed, options):
        wrong = []
        with contextlib.closing(browser.new_context(**options)) as context:
            page = context.new_page()
            page.set_default_timeout(60_000)
            page.on("pageerror", lambda error: wrong.append(f"error: {error}"))

            def on_console(message):
                if message.type in ("error", "warning") and not re.search(allowed, message.text):
                    wrong.append(f"console: {message.text}")

            def on_request(request):
                if not request.url.startswith(("blob:", url.split("/", 3)[0] + "//127.0.0.1:")):
                    wrong.append(f"request: {request.url}")

            page.on("console", on_console)
            page.on("request", on_request)
            page.goto(url)
            result = function(page)
            assert not wrong, wrong
            return result

    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        process, browser = thread.submit(start).result()

        def run(function, url, allowed="^$", **options):
            return thread.submit(visit, browser, function, url, allowed, options).result()

        yield run
        thread.submit(browser.close).result()
        thread.submit(process.stop).result()


# The Hugging Face hub --------------------------------------------------------------------


#: What is kept outside of Git, as a new repository's .gitattributes has it.
_LARGE = (".h5", ".safetensors", ".png", ".onnx", ".bin", ".npz", ".pb")

_TOKEN = "hf_of_me"


class _Repo:
    """A repository: commits, each a dict of names to bytes, the newest last."""

    def __init__(self, private):
        self.private = private
        self.commits = collections.OrderedDict()
        self.commit({})

    def commit(self, files):
        oid = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = files
        return oid

    @property
    def newest(self):
        return next(reversed(self.commits))

    @property
    def files(self):
        return self.commits[self.newest]


class _Hub(http.server.ThreadingHTTPServer):
    """The hub's API of models, as huggingface_hub asks it: repositories, commits, LFS, downloads.

    `requests` are the lines of what was asked, such as `POST /api/repos/create`.
    """

    def __init__(self):
        self.repos, self.large, self.requests = {}, {}, []
        super().__init__(("127.0.0.1", 0), _HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def create(self, name, private=False):
        self.repos[name] = _Repo(private)


class _HubHandler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *said):
        pass

    def answer(self, value, status=200, **headers):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(text))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message=""):
        headers = {"X-Error-Code": code, "X-Error-Message": message} if code else {}
        self.answer({"error": message}, status, **headers)

    @property
    def may_write(self):
        return self.headers.get("Authorization") == f"Bearer {_TOKEN}"

    def handle_one(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length)
        for pattern, method in self.ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                method(self, *match.groups())
                return
        self.refuse(404, "")

    do_GET = do_HEAD = do_POST = do_PUT = handle_one

    def create(self):
        if not self.may_write:
            self.refuse(401, "", "Invalid credentials in Authorization header")
            return
        said = json.loads(self.body)
        name = f"{said['organization']}/{said['name']}"
        if said["organization"] != "me":
            self.refuse(403, "", f"You don't have the rights to create a model under {name}")
            return
        there = name in self.server.repos
        if not there:
            self.server.create(name, said.get("visibility") == "private")
        url = {"url": f"{self.server.url}/{name}", "name": name}
        self.answer(url, 409 if there else 200)

    def repo(self, name):
        """The repository, where the one who asks may know of it."""
        found = self.server.repos.get(name)
        if found is None or (found.private and not self.may_write):
            self.refuse(401 if not self.may_write else 404, "RepoNotFound", "Repository not found")
            return None
        return found

    def info(self, name):
        if repo := self.repo(name):
            siblings = [{"rfilename": file} for file in repo.files]
            known = {"id": name, "sha": repo.newest, "private": repo.private}
            self.answer({**known, "siblings": siblings})

    def validate(self):
        text = json.loads(self.body)["content"]
        import yaml

        front = yaml.safe_load(text.split("---\n")[1])
        wrong = [key for key in front if not isinstance(front[key], (str, list))]
        missing = "license" not in front
        if wrong or missing:
            self.answer({"errors": [{"message": f"bad metadata {wrong}"}], "warnings": []}, 400)
        else:
            self.answer({"errors": [], "warnings": []})

    def preupload(self, name):
        asked = json.loads(self.body)["files"]
        mode = {True: "lfs", False: "regular"}
        files = [
            {
                "path": f["path"],
                "uploadMode": mode[f["path"].endswith(_LARGE)],
                "shouldIgnore": False,
            }
            for f in asked
        ]
        self.answer({"files": files})

    def batch(self, name):
        objects = [
            {**each, "actions": {"upload": {"href": f"{self.server.url}/large/{each['oid']}"}}}
            if each["oid"] not in self.server.large
            else each
            for each in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self.answer({})

    def commit(self, name):
        repo = self.repo(name)
        if repo is None or not self.may_write:
            return
        files = dict(repo.files)
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
            elif said["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(files)
        self.answer({"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/c/{oid}"})

    def resolve(self, name, revision, file):
        repo = self.repo(name)
        if repo is None:
            return
        oid = repo.newest if revision == "main" else revision
        if oid not in repo.commits:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif file not in repo.commits[oid]:
            self.refuse(404, "EntryNotFound", f"{file} does not exist")
        else:
            body = repo.commits[oid][file]
            etag = f'"{hashlib.sha256(body).hexdigest()}"'
            self.answer(body, X_Repo_Commit=oid, ETag=etag)

    NAME = r"([\w-]+/[\w-]+)"
    ROUTES = (
        (r"POST /api/repos/create", create),
        (r"POST /api/validate-yaml", validate),
        (rf"GET /api/models/{NAME}", info),
        (rf"POST /api/models/{NAME}/preupload/main", preupload),
        (rf"POST /api/models/{NAME}/commit/main", commit),
        (rf"POST /{NAME}\.git/info/lfs/objects/batch", batch),
        (r"PUT /large/(\w+)", store),
        (rf"(?:GET|HEAD) /{NAME}/resolve/([^/]+)/(.+)", resolve),
    )


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    """A hub of its own, as the environment would name it, where the user is logged in."""
    constants = pytest.importorskip("huggingface_hub.constants")

    with _Hub() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setenv("HF_TOKEN", _TOKEN)
        # These the library has read when it was imported.
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield found
        found.shutdown()
        thread.join()


# Certificates ----------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with what signs Content Credentials: `mail.pem`, a chain, and `signer_key.pem`.

    `root.pem` with `root_key.pem` vouches for it, `web.pem` is for another purpose, and
    `other_key.pem` is nobody's.
    """
    pytest.importorskip("c2pa")
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = tmp_path_factory.mktemp("certificates")
    now = datetime.datetime.now(datetime.UTC)

    def write(name, text):
        (folder / name).write_bytes(text)

    def certificate(name, key, issuer, issuer_key, *extensions):
        names = [
            x509.Name(
                [
                    x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Tests"),
                    x509.NameAttribute(x509.NameOID.COMMON_NAME, each),
                ]
            )
            for each in (name, issuer)
        ]
        builder = x509.CertificateBuilder(*names[::-1], key.public_key(), 1 + len(name))
        builder = builder.not_valid_before(now - datetime.timedelta(days=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        made = builder.sign(issuer_key, hashes.SHA256())
        return made.public_bytes(serialization.Encoding.PEM)

    def usage(**used):
        names = (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        )
        return x509.KeyUsage(**(dict.fromkeys(names, False) | used)), True

    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "signer", "other")}
    for name, key in keys.items():
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        write(f"{name}_key.pem", private)
    authority = x509.BasicConstraints(True, None), True
    root = certificate(
        "root", keys["root"], "root", keys["root"], authority, usage(key_cert_sign=True)
    )
    write("root.pem", root)
    above = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["root"].public_key()), False
    for name, purpose in (("mail", "EMAIL_PROTECTION"), ("web", "SERVER_AUTH")):
        own = certificate(
            *("signer", keys["signer"], "root", keys["root"]),
            (x509.BasicConstraints(False, None), True),
            (x509.ExtendedKeyUsage([getattr(x509.ExtendedKeyUsageOID, purpose)]), False),
            usage(digital_signature=True),
            above,
        )
        write(f"{name}.pem", own + root)
    return folder


# Trained models --------------------------------------------------------------------------


class Tiny:
    """A model of the zoo in its tiny preset, trained for two epochs. Tests read it.

    What trains, or changes a weight, works on a copy: `keras.saving.load_model(tiny.file)`.

    Args:
        name: String, the model's name in the zoo.
        num_classes: Int or `None`.
        folder: Path of a folder for its files.
        **arguments: Further arguments of the model, in place of the preset's.

    Attributes:
        model: The compiled model.
        images, labels: What it was trained on and validated with, 40 rows in batches of 8; of a
            style transfer contents and styles.
        history: Dict of lists, what `fit` logged.
        states: List of what `state(model)` was before training and after each epoch.
        files: The `.keras` file of each epoch; `file` is the last one.
    """

    #: Every drawing has this many rows, so that one sampler is compiled, and not one per test.
    ROWS = 8

    def __init__(self, name, num_classes, folder, **arguments):
        import keras
        import numpy as np

        import kgen

        keras.utils.set_random_seed(0)
        model_class = kgen.models.get(name)
        self.name, self.folder = name, folder
        classes = {} if num_classes is None else {"num_classes": num_classes}
        self.model = model_class.from_preset(model_class.tiny_preset, **classes, **arguments)
        self.images = np.random.default_rng(0).integers(
            0, 256, (40, *self.model.image_shape), "uint8"
        )
        self.labels = self.labels_of(np.arange(40))
        if getattr(self.model, "degradation", "") is None:  # a translator of two heaps of images
            self.labels = self.images[::-1].copy()
        #: Name of the endpoint that the model is for.
        self.main = next(iter(self.model.endpoints()))
        self.compile(self.model)
        self.states = [self.state(self.model)]
        self.files = [folder / "1.keras", folder / "2.keras"]

        def on_epoch_end(epoch, logs):
            self.states.append(self.state(self.model))
            self.model.save(self.files[epoch])

        self.history = self.fit(
            self.model,
            validation_data=(self.images, self.labels),
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)],
        )
        self.file = self.files[-1]

    def compile(self, model):
        """Compiles a model as this one was compiled."""
        # At its own rate a GAN draws grey for longer than this; at 2e-2 it collapses.
        model.compile(learning_rate=1e-2 if self.name == "dcgan" else None)

    def fit(self, model, **options):
        """Trains a model as this one was trained; returns what was logged."""
        options = {"batch_size": 8, "epochs": 2, "verbose": 0, **options}
        return model.fit(self.images, self.labels, **options).history

    @staticmethod
    def variables(model):
        """All that a `.keras` file must hold."""
        return [*model.variables, *model.optimizer.variables]

    def state(self, model):
        """The values of `variables(model)`, as arrays."""
        from keras import ops

        return [ops.convert_to_numpy(variable).copy() for variable in self.variables(model)]

    def labels_of(self, seeds):
        """int32 labels that go with seeds, or `None`."""
        if self.model.num_classes is None:
            return None
        return (seeds % self.model.num_classes).astype("int32")

    def given(self, seeds):
        """What goes into the main endpoint beside seeds, labels and options: a dict of arrays.

        A translator's pictures, each a function of its seed.
        """
        import numpy as np

        inputs = self.model.endpoints()[self.main].inputs
        return {
            name: np.stack(
                [np.random.default_rng(seed).integers(0, 256, spec.example_shape) for seed in seeds]
            ).astype("uint8")
            for name, spec in inputs.items()
            if spec.dtype == "uint8"
        }

    def feeds(self, seeds):
        """All that goes into the main endpoint, but for options: a dict of arrays."""
        every = {"seed": seeds.astype("int32"), "label": self.labels_of(seeds)}
        inputs = self.model.endpoints()[self.main].inputs
        every = {key: array for key, array in every.items() if key in inputs}
        return {**every, **self.given(seeds)}

    def run(self, seeds, model=None, **options):
        """Images of seeds, by this model or by another of its kind."""
        return (model or self.model).run_endpoint(
            self.main, self.given(seeds), self.labels_of(seeds), seeds=seeds, **options
        )

    def draw(self, seeds, model=None, **options):
        """As `run`, of up to `ROWS` seeds."""
        import numpy as np

        return self.run(np.resize(seeds, self.ROWS), model, **options)[: len(seeds)]

    @functools.cached_property
    def artifact(self):
        """The `export.Artifact` of the model, with SavedModel and ONNX, proven."""
        import export

        with pytest.MonkeyPatch.context() as patch:
            # In the process that proves the SavedModel XLA optimises as it does for users.
            patch.setenv("XLA_FLAGS", "")
            return export.export(self.model, self.folder / "artifact", progress=False)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(name, num_classes=3, **arguments)`: a trained tiny model, made once; see `Tiny`."""

    # The tests of a model follow one another. All models at once, with what was traced of them,
    # are more than the memory of small machines.
    @functools.lru_cache(maxsize=4)
    def make(name, num_classes=3, **arguments):
        gc.collect()
        return Tiny(name, num_classes, tmp_path_factory.mktemp(name), **arguments)

    return make
