"""What a generator offers to the outside: named functions of batched tensors.

`ImageGenerator.endpoints()` returns them; `export` turns each into a SavedModel
signature and an ONNX file.
"""

import dataclasses
import functools
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One input or output of an endpoint. Its first axis is always the batch.

    Args:
        shape: Tuple of ints, the shape of one row, without the batch axis; `()` for a
            vector of scalars `[B]`; `None` for a side that may be of any length.
        dtype: String: `"uint8"`, `"int32"` or `"float32"`.
        minimum: Smallest valid value, or `None` for no limit; what is exported takes a smaller
            input for it.
        maximum: Largest valid value (inclusive), or `None` for no limit, likewise.
        description: One line for the manifest and the model card.
        default: Of an input of scalars that may be left out, what it is then; else `None`.
        example: Tuple of ints, a shape of a row where sides may be of any length.
    """

    shape: tuple[int, ...]
    dtype: str
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""
    default: float | None = None
    example: tuple[int, ...] = ()

    @property
    def example_shape(self):
        """Tuple of ints, a shape that a row may have."""
        return self.example or self.shape


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """A pure, row-wise function of tensors, ready to be exported.

    Args:
        function: Callable that takes one tensor `[B, ...]` per entry of `inputs`, by
            keyword, those with a default or without them, and returns a dict of tensors
            `[B, ...]` with the keys of `outputs`.
            It is written in `keras.ops`, has no state, and row *i* of every output
            depends on row *i* of the inputs alone.
        inputs: Dict of name to `TensorSpec`.
        outputs: Dict of name to `TensorSpec`.
        description: One line that says what the endpoint does.
        options: Dict of the options of sampling that were chosen for it, by name.
        unused: Tuple of names of inputs that decide nothing, such as the seed of what is not drawn.
    """

    function: Callable[..., dict]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    description: str = ""
    options: dict = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def choose(self, **options):
        """The endpoint with options of sampling chosen: an input's is its default, that of any
        other is a constant of what is exported.
        """
        inputs = {
            name: spec
            if options.get(name) is None
            else dataclasses.replace(spec, default=options[name])
            for name, spec in self.inputs.items()
        }
        function = functools.partial(self.function, **options)
        return dataclasses.replace(
            self, function=function, inputs=inputs, options=self.options | options
        )


#: What an option that must be above 0 is at least, in what is exported.
LEAST_ABOVE_0 = 1e-6


def option_spec(number, default, description=""):
    """`TensorSpec` of an option of sampling, float32 `[B]`, that is what a `Number` may be."""
    least = LEAST_ABOVE_0 if number.above == 0 else number.least
    return TensorSpec((), "float32", least, number.most, description, default)


def seed_spec():
    """`TensorSpec` of an input that carries one seed per image, int32 `[B]`."""
    return TensorSpec((), "int32", 0, 2**31 - 1, "one seed per image")


def label_spec(num_classes):
    """`TensorSpec` of an input that carries one class per image, int32 `[B]`."""
    return TensorSpec((), "int32", 0, num_classes - 1, "class of the image")


def image_spec(image_shape, any_size=False, description="pixels, channels last"):
    """`TensorSpec` of uint8 images `[B, H, W, C]`, 0 to 255; of `any_size` in height and width."""
    shape = tuple(image_shape)
    if not any_size:
        return TensorSpec(shape, "uint8", 0, 255, description)
    description = f"{description}; of any height and width"
    return TensorSpec((None, None, shape[2]), "uint8", 0, 255, description, example=shape)


def mask_spec(image_shape):
    """`TensorSpec` of what is known of images, uint8 `[B, H, W]`, 0 or 1."""
    return TensorSpec(tuple(image_shape[:2]), "uint8", 0, 1, "1 where the pixel is known")
