"""`Batches`: the bridge from a `Split` to Keras's training loop."""

import keras
import numpy as np

from kgen.checks import check_int, check_seed


class Batches(keras.utils.PyDataset):
    """Batches of a `Split`, made with `Split.batches`, whose arguments these are.

    Element *i* is a tuple `(images,)` or `(images, labels)` of NumPy arrays, uint8
    `[B, H, W, C]` and int32 `[B]`; of a split with inputs `(inputs, images)`. Where these are no
    pairs each side goes through orders of its own, an epoch is one of the longer side, and the
    shorter begins again. What a batch holds is a pure function of the seed, of
    `epoch` and of *i*, not of what was read before, so a training run that is resumed
    at an epoch sees the batches that it would have seen.

    A model of the zoo sets the place by the steps that it has trained. `fit` of any other Keras
    model moves `epoch` on by one after each epoch. Set `epoch = initial_epoch` before a
    `fit` that does not begin with the epoch at which the last one ended. A loop of your
    own sets `epoch` itself. Two arguments of `fit` get in the way: with `shuffle=True`,
    Keras's default, it visits the batches in an order drawn from Python's global random
    state, so pass `shuffle=False`; with `steps_per_epoch` its epochs no longer end where
    these do.

    >>> images, labels = kgen.data.load("digits").train.batches(64, seed=1)[0]
    >>> images.shape, labels.shape
    ((64, 8, 8, 1), (64,))
    """

    def __init__(self, split, batch_size, shuffle=True, seed=0, drop_remainder=True, epoch=0):
        super().__init__()
        self.split = split
        self.batch_size = check_int(1, batch_size=batch_size)
        self.shuffle = shuffle
        self.seed = check_seed(seed)
        self.drop_remainder = drop_remainder
        self.epoch = epoch
        self._images = np.asarray(split.images)  # a memmap's own indexing is slower
        self._inputs = None if split.inputs is None else np.asarray(split.inputs)
        self._count = len(self._images)
        if not split.paired:
            self._count = max(self._count, len(self._inputs))
        self._plans = {}

    def __len__(self):
        if self.drop_remainder:
            return max(1, self._count // self.batch_size)
        return -(-self._count // self.batch_size)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of {len(self)}")
        epoch, offset = self._position
        number = index
        if self.shuffle:
            number += epoch * len(self) + offset
            epoch, index = divmod(number, len(self))
        begin = index * self.batch_size
        if not self.split.paired:
            first = number * self.batch_size
            size = self.batch_size if self.shuffle else min(self.batch_size, self._count - begin)
            return tuple(
                self._of_side(side, array, first + np.arange(size))
                for side, array in enumerate((self._inputs, self._images))
            )
        rows, flipped = slice(begin, begin + self.batch_size), None
        if self.shuffle:
            order, flips = self._plan(epoch)
            flipped = None if flips is None else flips[rows]
            rows = order[rows]
        images = self._gather(self._images, rows, flipped)
        if self._inputs is not None:
            return self._gather(self._inputs, rows, flipped), images
        if self.split.labels is None:
            return (images,)
        return images, self.split.labels[rows]

    def _of_side(self, side, array, places):
        """Rows of inputs or of images that are no pairs, by their places in all of its rounds."""
        rounds, rows = np.divmod(places, len(array))
        if not self.shuffle:
            return array[rows]
        flipped = np.zeros(len(rows), bool)
        for number in np.unique(rounds):
            order, flips = self._plan(number.item(), side, len(array))
            here = rounds == number
            flipped[here] = False if flips is None else flips[rows[here]]
            rows[here] = order[rows[here]]
        return self._gather(array, rows, flipped)

    def _plan(self, epoch, side=None, count=None):
        """The order of an epoch's images, `[N]`, and whether each is mirrored, `[N]` or `None`.

        `side` is that of `count` inputs or images which are no pairs.
        """
        plans, key = self._plans, (epoch, side)  # read once: TensorFlow calls from a thread
        if key not in plans:
            rng = np.random.default_rng((self.seed, epoch) if side is None else (*key, self.seed))
            order = rng.permutation(self._count if count is None else count)
            flips = rng.random(len(order)) < 0.5 if self.split.horizontal_flip else None
            kept = {k: plan for k, plan in plans.items() if k[1] != side or k[0] == epoch - 1}
            self._plans = plans = {**kept, key: (order, flips)}
        return plans[key]

    @staticmethod
    def _gather(array, rows, flipped):
        """Rows, a slice or their numbers, read as they lie on the disk; some of them mirrored."""
        if isinstance(rows, slice):
            return array[rows]
        positions = np.argsort(rows)
        images = np.empty((len(rows), *array.shape[1:]), np.uint8)
        images[positions] = array[rows[positions]]
        if flipped is not None:
            images[flipped] = images[flipped, :, ::-1]
        return images

    # Keras calls `on_epoch_begin` and `on_epoch_end` around every epoch, and, at the start
    # of every `fit`, `on_epoch_end` once more: alone, or after the `on_epoch_begin` of a
    # first look at the data that builds the model. That call ends no epoch. It is the first
    # one after `epoch` was set, and in a later `fit` the one without an `on_epoch_begin`.

    @property
    def epoch(self):
        """Integer, the epoch whose batches are served."""
        return self._position[0]

    @epoch.setter
    def epoch(self, epoch):
        self._position = (epoch, 0)
        self._fit_has_begun = False
        self._within_epoch = False

    def go_to(self, step):
        """Serves what comes after that many steps of shuffled batches, counted over the epochs.

        Where they end in the middle of an epoch, its rest comes first, and the next one's begin
        after it.
        """
        self.epoch, offset = divmod(step, len(self))
        self._position = (self.epoch, offset)

    def on_epoch_begin(self):
        self._within_epoch = True

    def on_epoch_end(self):
        if self._fit_has_begun and self._within_epoch:
            self._position = (self._position[0] + 1, self._position[1])
        self._fit_has_begun = True
        self._within_epoch = False
