"""Runs signatures of a SavedModel through TensorFlow's C API, as TF Serving does.

    python -P _c_api.py JOB_FOLDER

A script of its own: it imports NumPy and nothing of kgen, Keras or TensorFlow's Python, so
that what it runs is proven to stand alone. `JOB_FOLDER` holds `job.json` (the library, the
SavedModel and the calls) and `inputs.npz`. Call number `i` leaves `<i>.npz`, its outputs by
tensor name, and one line on standard output. The last line names the modules that were imported.
"""

import ctypes
import json
import pathlib
import sys

import numpy as np

# Values of the C enum TF_DataType.
TYPES = {1: np.float32, 3: np.int32, 4: np.uint8, 9: np.int64, 22: np.uint32}
CODES = {np.dtype(dtype): code for code, dtype in TYPES.items()}
STRING, STRING_SIZE = 7, 24  # TF_TString is 24 bytes on 64-bit machines

Pointer = ctypes.c_void_p


class Output(ctypes.Structure):
    _fields_ = [("operation", Pointer), ("index", ctypes.c_int)]


class SavedModel:
    """A session on a SavedModel, through the C functions of `library`."""

    def __init__(self, library, folder, tags):
        self.lib = ctypes.CDLL(library, mode=ctypes.RTLD_LOCAL)
        for function, result in {
            "TF_NewStatus": Pointer,
            "TF_Message": ctypes.c_char_p,
            "TF_NewSessionOptions": Pointer,
            "TF_NewGraph": Pointer,
            "TF_LoadSessionFromSavedModel": Pointer,
            "TF_GraphOperationByName": Pointer,
            "TF_AllocateTensor": Pointer,
            "TF_TensorData": Pointer,
            "TF_Dim": ctypes.c_int64,
            "TF_StringGetDataPointer": Pointer,
            "TF_StringGetSize": ctypes.c_size_t,
            "TF_StringInit": None,
            "TF_StringCopy": None,
            "TF_StringDealloc": None,
        }.items():
            getattr(self.lib, function).restype = result
        self.status = Pointer(self.lib.TF_NewStatus())
        self.graph = Pointer(self.lib.TF_NewGraph())
        tags = (ctypes.c_char_p * len(tags))(*(tag.encode() for tag in tags))
        self.session = Pointer(
            self.lib.TF_LoadSessionFromSavedModel(
                Pointer(self.lib.TF_NewSessionOptions()),
                None,
                folder.encode(),
                tags,
                len(tags),
                self.graph,
                None,
                self.status,
            )
        )
        self._check(f"loading {folder}")

    def run(self, place, inputs, outputs):
        """Arrays by tensor name in, arrays by tensor name out; `place` is for the error."""
        feeds = (Output * len(inputs))(*map(self._output, inputs))
        values = (Pointer * len(inputs))(*map(self._tensor, inputs.values()))
        fetches = (Output * len(outputs))(*map(self._output, outputs))
        results = (Pointer * len(outputs))()
        self.lib.TF_SessionRun(
            self.session,
            None,
            *(feeds, values, len(inputs)),
            *(fetches, results, len(outputs)),
            *(None, 0),
            None,
            self.status,
        )
        self._check(place)
        arrays = {
            name: self._array(Pointer(result))
            for name, result in zip(outputs, results, strict=True)
        }
        for tensor in (*values, *results):
            for address in self._strings(Pointer(tensor)):
                self.lib.TF_StringDealloc(Pointer(address))
            self.lib.TF_DeleteTensor(Pointer(tensor))
        return arrays

    def _check(self, doing):
        if self.lib.TF_GetCode(self.status):
            raise RuntimeError(f"{doing}: {self.lib.TF_Message(self.status).decode()}")

    def _output(self, tensor_name):
        name, index = tensor_name.split(":")
        operation = self.lib.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise RuntimeError(f"the graph has no operation named {name}")
        return Output(operation, int(index))

    def _tensor(self, array):
        array = np.ascontiguousarray(array)
        dims = (ctypes.c_int64 * array.ndim)(*array.shape)
        strings = array.dtype == object
        code = STRING if strings else CODES[array.dtype]
        size = array.size * STRING_SIZE if strings else array.nbytes
        tensor = self.lib.TF_AllocateTensor(code, dims, array.ndim, ctypes.c_size_t(size))
        if strings:
            for address, string in zip(self._strings(Pointer(tensor)), array, strict=True):
                self.lib.TF_StringInit(Pointer(address))
                self.lib.TF_StringCopy(Pointer(address), string, ctypes.c_size_t(len(string)))
        else:
            data = self.lib.TF_TensorData(Pointer(tensor))
            ctypes.memmove(data, array.ctypes.data, array.nbytes)
        return tensor

    def _array(self, tensor):
        shape = [self.lib.TF_Dim(tensor, axis) for axis in range(self.lib.TF_NumDims(tensor))]
        code = self.lib.TF_TensorType(tensor)
        data = self.lib.TF_TensorData(tensor)
        if code == STRING:
            return np.array([self._string(a) for a in self._strings(tensor)], dtype=object)
        array = np.empty(shape, TYPES[code])
        ctypes.memmove(array.ctypes.data, data, array.nbytes)
        return array

    def _strings(self, tensor):
        """Addresses of a vector's strings; of a tensor of numbers none."""
        if self.lib.TF_TensorType(tensor) != STRING:
            return []
        start = self.lib.TF_TensorData(tensor)
        return [start + STRING_SIZE * row for row in range(self.lib.TF_Dim(tensor, 0))]

    def _string(self, address):
        start = self.lib.TF_StringGetDataPointer(Pointer(address))
        return ctypes.string_at(start, self.lib.TF_StringGetSize(Pointer(address)))


def flatten(arrays):
    """Byte strings become one uint8 array and their lengths: `.npz` keeps them without pickle."""
    for name, array in arrays.items():
        if array.dtype == object:
            yield name + "/bytes", np.frombuffer(b"".join(array), np.uint8)
            yield name + "/lengths", np.array([len(string) for string in array])
        else:
            yield name, array


def unflatten(arrays):
    """Undoes `flatten`: a dict of the arrays of a file that holds its pairs."""
    result = {}
    for key in arrays.files:
        name, slash, part = key.partition("/bytes")
        if slash and not part:
            ends = np.cumsum(arrays[f"{name}/lengths"])
            data = arrays[key].tobytes()
            parts = [data[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)]
            result[name] = np.array(parts, dtype=object)
        elif not key.endswith("/lengths"):
            result[key] = arrays[key]
    return result


def main(folder):
    folder = pathlib.Path(folder)
    job = json.loads((folder / "job.json").read_text())
    golden = unflatten(np.load(folder / "inputs.npz"))
    model = SavedModel(job["library"], job["saved_model"], job["tags"])
    for number, call in enumerate(job["calls"]):
        inputs = {name: golden[key][: call["rows"]] for name, key in call["inputs"].items()}
        size = call["batch_size"]
        place = f"signature '{call['signature']}', batch size {size}"
        batches = [
            model.run(place, {name: array[start : start + size] for name, array in inputs.items()},
                      call["outputs"])
            for start in range(0, call["rows"], size)
        ]  # fmt: skip
        outputs = {name: np.concatenate([b[name] for b in batches]) for name in call["outputs"]}
        np.savez(folder / f"{number}.npz", **dict(flatten(outputs)))
        print(json.dumps({"call": number}), flush=True)
    print(json.dumps({"modules": sorted({name.partition(".")[0] for name in sys.modules})}))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except RuntimeError as error:
        sys.exit(f"error: {error}")
