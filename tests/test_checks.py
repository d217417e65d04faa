import numpy as np
import pytest

from kgen.checks import check_int, check_seed


@pytest.mark.parametrize("value", [3, 3.0, np.int8(3), np.uint64(3), np.float32(3), np.array(3)])
def test_a_whole_number_of_any_type(value):
    assert check_int(1, n=value) == check_seed(value) == 3
    assert type(check_int(1, n=value)) is type(check_seed(value)) is int


@pytest.mark.parametrize("value", [None, "3", 2.7, np.nan, np.inf, True, np.True_, [3], -1, 2**31])
def test_what_is_none_is_named(value):
    with pytest.raises(ValueError, match=r"A seed must be an integer in 0 to .* Received: "):
        check_seed(value)
    if value != 2**31:
        with pytest.raises(ValueError, match=r"^n must be an int of 0 or more\. Received: n="):
            check_int(0, n=value)
