"""Predictions of one image to panoptic, semantic and instance results at the image's original size.

Axes: Q queries, K classes, h w stride-4 cells, H W original pixels, M masks, N instances. Source of the rules:
Mask2Former (arXiv 2112.01527) and its published inference. Masks are resized bilinearly to the padded input,
cropped to the image and resized to the original size; everything is decided there.

Unlike the source, full-resolution masks exist a few at a time: hopeless queries leave first, and the argmax over
queries is kept while they stream by. Results are the same, memory is some masks instead of two times Q. Pictures above
some megapixels are worked on band by band, so that memory beside the results does not grow with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from ecocli.metrics.instance import Rle, decode_masks, encode_masks
from ecocli.runtime.interrupt import check_interrupted

Size = tuple[int, int]
"""Height and width, in pixels."""

_MASKS_AT_ONCE = 8
_BAND_PIXELS = 1 << 22
_MASK_VALUES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Geometry:
    """The sizes an image passes through.

    Attributes:
        padded_size: The network's input, padding included.
        image_size: The image within it, from the top left corner.
        original_size: The image as it lies on disk.
    """

    padded_size: Size
    image_size: Size
    original_size: Size


@dataclass(frozen=True)
class PredictedSegment:
    """One segment of a predicted panoptic map.

    Attributes:
        id: Value of its pixels in the map, from 1.
        class_index: Rank of its category.
        is_thing: Whether it is one object; a stuff segment holds all of its class.
        score: Class probability of its query; of stuff from several queries the best.
    """

    id: int
    class_index: int
    category_id: int
    is_thing: bool
    area: int
    score: float = 1.0


@dataclass(frozen=True)
class PanopticRule:
    """What turns predictions into segments besides the predictions.

    Attributes:
        is_thing: For each class whether it is a thing.
        object_threshold: A query takes part when its class probability exceeds this.
        overlap_threshold: A segment stays when it keeps at least this ratio of its own mask.
    """

    is_thing: tuple[bool, ...]
    category_ids: tuple[int, ...]
    object_threshold: float = 0.8
    overlap_threshold: float = 0.8


@dataclass(frozen=True)
class Instances:
    """Scored instances, best first; several may share a mask (one query, several classes).

    Attributes:
        score: Class probability x mean mask probability inside the mask.
        mask_index: Which of the distinct masks.
        codes: Run-length codes of the distinct masks.
    """

    class_index: Int[Tensor, " N"]
    score: Float[Tensor, " N"]
    mask_index: Int[Tensor, " N"]
    codes: tuple[Rle, ...]
    size: Size

    @property
    def masks(self) -> Bool[Tensor, "M H W"]:
        """The distinct masks; all of them in memory at once."""
        return torch.from_numpy(decode_masks(self.codes, self.size))


def resize_masks(pred_masks: Float[Tensor, "Q h w"], geometry: Geometry) -> Float[Tensor, "Q H W"]:
    """Resize mask logits to the padded input, cut the padding off and resize to the original size."""
    masks = _bilinear(pred_masks.float(), geometry.padded_size)
    height, width = geometry.image_size
    return _bilinear(masks[:, :height, :width], geometry.original_size)


def panoptic_inference(
    pred_logits: Float[Tensor, "Q K1"],
    pred_masks: Float[Tensor, "Q h w"],
    geometry: Geometry,
    rule: PanopticRule,
) -> tuple[Int32[np.ndarray, "H W"], tuple[PredictedSegment, ...]]:
    """Merge the confident queries of one image into a panoptic map.

    Args:
        pred_logits: Class logits, "no object" last.
        pred_masks: Mask logits at stride 4 of the padded input.

    Returns:
        The map, 0 where nothing is predicted, and its segments with ids 1, 2, ...
    """
    scores, labels = pred_logits.float().softmax(dim=-1).max(dim=-1)
    kept = (labels != pred_logits.shape[-1] - 1) & (scores > rule.object_threshold)
    classes = labels[kept].tolist()
    if not classes:
        return np.zeros(geometry.original_size, np.int32), ()
    owner, claims = _assign_pixels(scores[kept], pred_masks[kept], geometry)
    claimed, won, own_area = claims.tolist()

    segment_of_query = [0] * len(classes)
    segment_of_stuff: dict[int, int] = {}
    class_of_segment: list[int] = []
    areas: list[int] = []
    segment_scores: list[float] = []
    for query, (class_index, score) in enumerate(zip(classes, scores[kept].tolist(), strict=True)):
        if won[query] == 0 or claimed[query] / own_area[query] < rule.overlap_threshold:
            continue
        segment = 0 if rule.is_thing[class_index] else segment_of_stuff.get(class_index, 0)
        if segment == 0:
            class_of_segment.append(class_index)
            areas.append(0)
            segment_scores.append(score)
            segment = len(areas)
            segment_of_stuff[class_index] = segment
        segment_of_query[query] = segment
        areas[segment - 1] += won[query]
        segment_scores[segment - 1] = max(segment_scores[segment - 1], score)
    # The last entry is for pixels of no query, whose owner is -1.
    table = torch.tensor([*segment_of_query, 0], dtype=torch.int32, device=owner.device)
    for band in _bands(geometry):
        owner[band.start : band.stop] = table[owner[band.start : band.stop].long()]
    panoptic_map = owner.cpu().numpy()
    segments = tuple(
        PredictedSegment(number, index, rule.category_ids[index], rule.is_thing[index], area, score)
        for number, (index, area, score) in enumerate(
            zip(class_of_segment, areas, segment_scores, strict=True), start=1
        )
    )
    return panoptic_map, segments


def semantic_inference(
    pred_logits: Float[Tensor, "Q K1"], pred_masks: Float[Tensor, "Q h w"], geometry: Geometry
) -> Float[Tensor, "K H W"]:
    """Return the score of every class at every pixel: class probability x mask probability, over the queries."""
    probability = pred_logits.float().softmax(dim=-1)[:, :-1]
    total = torch.zeros(
        probability.shape[1], geometry.original_size[0] * geometry.original_size[1], device=pred_logits.device
    )
    for chunk in _chunks(pred_masks.shape[0]):
        masks = resize_masks(pred_masks[chunk], geometry).sigmoid()
        total.addmm_(probability[chunk].T, masks.flatten(1))
    return total.view(-1, *geometry.original_size)


def semantic_map(
    pred_logits: Float[Tensor, "Q K1"], pred_masks: Float[Tensor, "Q h w"], geometry: Geometry
) -> Int[Tensor, "H W"]:
    """Return the best class of every pixel, band by band: neither all masks nor all scores are held at once."""
    probability = pred_logits.float().softmax(dim=-1)[:, :-1].T
    height, width = geometry.original_size
    rows = max(1, _MASK_VALUES_AT_ONCE // (pred_masks.shape[0] * width))
    best = torch.empty(geometry.original_size, dtype=torch.int32, device=pred_masks.device)
    for top in range(0, height, rows):
        check_interrupted()
        band = range(top, min(top + rows, height))
        scores = probability @ _resize_band(pred_masks, geometry, band).sigmoid().flatten(1)
        # On a CPU argmax over the leading axis is some 20 times slower than max, which finds the same index.
        best[band.start : band.stop] = scores.max(dim=0).indices.view(-1, width)
    return best


def instance_inference(
    pred_logits: Float[Tensor, "Q K1"],
    pred_masks: Float[Tensor, "Q h w"],
    geometry: Geometry,
    is_thing: Sequence[bool],
    max_instances: int = 100,
) -> Instances:
    """Score the best (query, class) pairs of one image as instances; stuff among them is dropped.

    Args:
        pred_logits: Class logits, "no object" last.
        pred_masks: Mask logits at stride 4 of the padded input.
        max_instances: Pairs taken before stuff is dropped.
    """
    probability = pred_logits.float().softmax(dim=-1)[:, :-1]
    K = probability.shape[1]
    pair_score, pair = probability.flatten().topk(min(max_instances, probability.numel()), sorted=False)
    thing = torch.tensor(is_thing, device=pair.device)[pair % K]
    pair_score, pair = pair_score[thing], pair[thing]
    queries, mask_index = torch.unique(pair // K, return_inverse=True)
    mask_score = torch.empty(queries.numel(), device=pair.device)
    codes: list[Rle] = []
    for chunk in _chunks(queries.numel(), geometry):
        chosen = pred_masks[queries[chunk]]
        masks = torch.empty((len(chosen), *geometry.original_size), dtype=torch.bool, device=pair.device)
        total, pixels = torch.zeros(len(chosen), device=pair.device), torch.zeros_like(queries[chunk])
        for band in _bands(geometry):
            logits = _resize_to(chosen, geometry, band)
            inside = logits > 0
            pixels += inside.sum(dim=(1, 2))
            total += (logits.sigmoid() * inside).sum(dim=(1, 2))
            masks[:, band.start : band.stop] = inside
        mask_score[chunk] = total / (pixels + 1e-6)
        codes += encode_masks(masks.cpu().numpy())
    score = pair_score * mask_score[mask_index]
    order = score.argsort(descending=True, stable=True)
    return Instances((pair % K)[order], score[order], mask_index[order], tuple(codes), geometry.original_size)


def _assign_pixels(
    scores: Float[Tensor, " Q"], pred_masks: Float[Tensor, "Q h w"], geometry: Geometry
) -> tuple[Int32[Tensor, "H W"], Int[Tensor, "3 Q"]]:
    """Find the query that owns each pixel, -1 where its best query's mask does not reach.

    Returns:
        The owners; and of each query the pixels where it is the best, those that it owns, and its mask's.
    """
    Q = scores.shape[0]
    owners = torch.empty(geometry.original_size, dtype=torch.int32, device=scores.device)
    claims = torch.zeros(3, Q, dtype=torch.int64, device=scores.device)
    for band in _bands(geometry):
        shape = (len(band), geometry.original_size[1])
        owner = torch.zeros(shape, dtype=torch.int64, device=scores.device)
        inside = torch.zeros(shape, dtype=torch.bool, device=scores.device)
        best = torch.full(shape, -1.0, device=scores.device)
        for chunk in _chunks(Q):
            masks = _resize_to(pred_masks[chunk], geometry, band).sigmoid()
            solid = masks >= 0.5
            claims[2, chunk] += solid.sum(dim=(1, 2))
            chunk_best, chunk_owner = masks.mul_(scores[chunk, None, None]).max(dim=0)
            # Strictly better: of equal queries the first one keeps the pixel, as in one argmax over all.
            better = chunk_best > best
            best = torch.where(better, chunk_best, best)
            owner = torch.where(better, chunk_owner + chunk.start, owner)
            inside = torch.where(better, solid.gather(0, chunk_owner[None])[0], inside)
        claims[0] += torch.bincount(owner.flatten(), minlength=Q)
        claims[1] += torch.bincount(owner[inside], minlength=Q)
        owners[band.start : band.stop] = torch.where(inside, owner, -1)
    return owners, claims


def _bands(geometry: Geometry) -> Iterator[range]:
    """The rows of the original image, in bands of some megapixels; one band for most images."""
    height, width = geometry.original_size
    rows = max(1, _BAND_PIXELS // width)
    for top in range(0, height, rows):
        check_interrupted()
        yield range(top, min(top + rows, height))


def _resize_to(pred_masks: Float[Tensor, "Q h w"], geometry: Geometry, band: range) -> Float[Tensor, "Q b W"]:
    if len(band) == geometry.original_size[0]:
        return resize_masks(pred_masks, geometry)
    return _resize_band(pred_masks, geometry, band)


def _bilinear(masks: Float[Tensor, "Q h w"], size: Size) -> Float[Tensor, "Q H W"]:
    if masks.shape[-2:] == size:
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def _resize_band(pred_masks: Float[Tensor, "Q h w"], geometry: Geometry, band: range) -> Float[Tensor, "Q b W"]:
    """Some rows of what `resize_masks` returns, without making the others."""
    lower, upper, share = _source_rows(band, geometry.image_size[0], geometry.original_size[0])
    # The rows of the padded input that the band needs, and the rows of the masks that those need.
    first, last = int(lower[0]), int(upper[-1])
    inner = _source_rows(range(first, last + 1), pred_masks.shape[1], geometry.padded_size[0])
    padded = _blend_rows(pred_masks.float(), *inner, geometry.padded_size[1])
    return _blend_rows(
        padded[:, :, : geometry.image_size[1]], lower - first, upper - first, share, geometry.original_size[1]
    )


def _source_rows(
    rows: range, size: int, new_size: int
) -> tuple[Int[Tensor, " b"], Int[Tensor, " b"], Float[Tensor, " b"]]:
    """For rows of a bilinearly resized image: the two rows each lies between, and the share of the latter."""
    centre = ((torch.arange(rows.start, rows.stop) + 0.5) * (size / new_size) - 0.5).clamp(min=0)
    lower = centre.long()
    return lower, (lower + 1).clamp(max=size - 1), centre - lower


def _blend_rows(
    masks: Float[Tensor, "Q h w"],
    lower: Int[Tensor, " b"],
    upper: Int[Tensor, " b"],
    share: Float[Tensor, " b"],
    width: int,
) -> Float[Tensor, "Q b W"]:
    first, last = int(lower[0]), int(upper[-1])
    wide = _bilinear(masks[:, first : last + 1], (last + 1 - first, width))
    lower, upper, share = (part.to(masks.device) for part in (lower - first, upper - first, share[:, None]))
    return wide[:, lower] * (1 - share) + wide[:, upper] * share


def _chunks(count: int, geometry: Geometry | None = None) -> Iterator[slice]:
    """Cut masks into chunks; with a geometry into such that whole masks of large images come one by one."""
    at_once = _MASKS_AT_ONCE
    if geometry is not None:
        pixels = geometry.original_size[0] * geometry.original_size[1]
        at_once = max(1, min(at_once, _MASKS_AT_ONCE * _BAND_PIXELS // pixels))
    for start in range(0, count, at_once):
        yield slice(start, min(start + at_once, count))
