import pytest
import torch

from invgen import check_operator
from invgen.errors import OptionError, ShapeError
from invgen.operators import Blur, Identity, Mask

MAKERS = {
    "given": lambda: Mask((2, 4, 5), torch.arange(20).reshape(4, 5) % 3 == 0),
    "random": lambda: Mask.random((3, 6, 5), keep=0.4),
    "random per channel": lambda: Mask.random((3, 6, 5), keep=0.4, per_channel=True),
    "box": lambda: Mask.box((3, 8, 8), 4),
    "lines": lambda: Mask.lines((1, 8, 6), step=3, offset=1),
    "brush": lambda: Mask.brush((2, 12, 16)),
    "1-D": lambda: Mask.random((20,)),
    "volume": lambda: Mask.box((1, 4, 5, 6), (2, 3, 1), position=(0, 2, 5)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_keeps_the_contract(name):
    check_operator(MAKERS[name]())
    check_operator(MAKERS[name](), dtype=torch.float32)


def test_measures_the_kept_values_in_order_and_puts_them_back():
    mask = torch.tensor([[1, 0, 1], [0, 0, 1]])
    A = Mask((2, 2, 3), mask)
    x = torch.arange(12.0).reshape(2, 2, 3)
    y = A(x)
    assert y.tolist() == [0, 2, 5, 6, 8, 11]
    image = A.image(y.expand(4, 1, 6), fill=-1)
    assert image.shape == (4, 1, 2, 2, 3)
    assert torch.equal(image[0, 0], torch.where(mask.bool(), x, -1))


def test_solve_with_a_variance_for_every_value_is_a_division():
    A = Mask.random((1, 4, 4), keep=0.5)
    b, noise = torch.randn(2, 8), torch.rand(2, 8) + 0.1
    assert torch.allclose(A.solve(b, torch.tensor([1.0, 2.0]), noise), b / (torch.tensor([[1.0], [2.0]]) + noise))


def test_random_keeps_the_stated_fraction_and_depends_on_the_seed_alone():
    state = torch.random.get_rng_state()
    A = Mask.random((3, 10, 10), keep=0.3, seed=1)
    assert A.mask.sum((1, 2)).tolist() == [30, 30, 30] and (A.mask[0] == A.mask[1]).all()
    assert torch.equal(A.mask, Mask.random((3, 10, 10), keep=0.3, seed=1).mask)
    assert A.mask.ne(Mask.random((3, 10, 10), keep=0.3, seed=2).mask).any()
    own = Mask.random((3, 10, 10), keep=0.3, per_channel=True).mask
    assert own.sum((1, 2)).tolist() == [30, 30, 30] and own[0].ne(own[1]).any()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_box_and_lines_are_where_they_should_be():
    box = Mask.box((1, 6, 8), (2, 4)).mask[0]
    assert (~box).nonzero().amin(0).tolist() == [2, 2] and (~box).sum() == 8 and not box[2:4, 2:6].any()
    assert not Mask.box((1, 6, 8), 2, position=(0, 6)).mask[0, :2, 6:].any()
    assert Mask.lines((1, 6, 4), step=2, offset=1).mask[0, :, 0].tolist() == [False, True] * 3
    assert Mask.lines((1, 4, 6), step=2, axis=-1).mask[0, 0].tolist() == [True, False] * 3
    assert Mask.lines((6,), step=2).mask.tolist() == [True, False] * 3


@pytest.mark.parametrize("coverage", [0.1, 0.3, 0.6])
def test_brush_removes_the_stated_part_in_connected_strokes(coverage):
    hole = ~Mask.brush((3, 96, 128), coverage=coverage, seed=4).mask
    assert (hole == hole[0]).all()
    # a segment, at most 0.2 x 0.09 of the shorter side squared, is all that it may overshoot
    assert coverage <= hole.double().mean() <= coverage + 0.03
    # strokes, not dust: a removed pixel nearly always has a removed neighbour to one side
    assert (hole[0, :, 1:] | ~hole[0, :, :-1]).double().mean() > 0.9
    assert torch.equal(hole, ~Mask.brush((3, 96, 128), coverage=coverage, seed=4).mask)
    assert hole.ne(~Mask.brush((3, 96, 128), coverage=coverage, seed=5).mask).any()


def test_a_mask_of_a_mask_is_a_mask_and_orthogonal_maps_keep_the_svd():
    first = Mask.random((1, 4, 4), keep=0.75)
    second = Mask.random((12,), keep=0.5)
    both = second @ first
    assert isinstance(both, Mask) and both.out_shape == (6,)
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    assert torch.equal(both(x), second(first(x)))
    shift = Blur((1, 4, 4), torch.tensor([[1.0, 0.0, 0.0]]))  # a shift: every |H| is one
    assert shift.orthogonal
    for A in (first @ shift, first @ Identity((1, 4, 4))):
        check_operator(A)
        assert hasattr(A, "s")


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: Mask((3, 4, 4), torch.ones(5, 4)), "does not broadcast"),
        (lambda: Mask((3, 4, 4), torch.zeros(4, 4)), "keeps no value"),
        (lambda: Mask.random((3, 4, 4), keep=0), "keep of Mask.random must be a number from 0 to 1, 0 excluded"),
        (lambda: Mask.random((3, 4, 4), keep=1.5), "from 0 to 1"),
        (lambda: Mask.random((1, 4, 4), keep=0.01), "rounds to none"),
        (lambda: Mask.box((1, 4, 4), 5), "sizes from 1"),
        (lambda: Mask.box((1, 4, 4), 4), "keeps no value"),
        (lambda: Mask.box((1, 4, 4), 2, "left"), "'centre' or 2 indices"),
        (lambda: Mask.box((1, 4, 4), 2, (3, 0)), "does not lie inside"),
        (lambda: Mask((3, 4, 4), "mask.png"), "mask of Mask must be a tensor"),
        (lambda: Mask.box((1, 4, 4), 1.5), "size of Mask.box must be a positive whole number or"),
        (lambda: Mask.lines((1, 4, 4), step=0), "step of Mask.lines must be a positive whole number"),
        (lambda: Mask.lines((1, 4, 4), step=1.5), "step of Mask.lines must be"),
        (lambda: Mask.lines((1, 4, 4), offset=4), "below the 4 lines"),
        (lambda: Mask.lines((1, 4, 4), axis=3), "axis must lie"),
        (lambda: Mask.brush((1, 4, 4), coverage=1.0), "from 0 to 1, both excluded"),
        (lambda: Mask.brush((7,)), "are for images"),
        (lambda: Mask.brush((1, 4, 4), width=0), "width of Mask.brush must be a number from 0 to 1"),
    ],
)
def test_bad_options_are_named(make, sentence):
    with pytest.raises(OptionError, match=sentence):
        make()


def test_image_wants_a_measurement():
    with pytest.raises(ShapeError, match="Mask.image takes shape"):
        Mask.random((1, 4, 4), keep=0.5).image(torch.zeros(1, 4, 4))
