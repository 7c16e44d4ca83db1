"""nornir's assemble and assemble_tiles: signatures, known numbers, lazy input, bad input."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import zarr
from scipy import ndimage

import mosaicreg.nornir as nornir_imageregistration
from mosaicreg.errors import InputError
from mosaicreg.irtools import Stos, StosImage, write_stos
from mosaicreg.nornir import assemble, assemble_tiles
from mosaicreg.transforms import Mesh, Rigid, Transform, Translation, parse_transform

DOCUMENTED = """

DestinationROI_to_SourceROI(transform, botleft, area, extrapolate=False)
ExtractRegion(image, botleft=None, area=None, cval=0)
FixedImageToWarpedSpace(transform, WarpedImageArea, DataToTransform, botleft=None,\
 area=None, cval=None, extrapolate=False)
ParameterToStosTransform(transformData)
SourceROI_to_DestinationROI(transform, botleft, area, extrapolate=False)
TransformImage(transform, fixedImageShape, warpedImage, CropUndefined)
TransformStos(transformData, OutputFilename=None, fixedImage=None, warpedImage=None,\
 scalar=1.0, CropUndefined=False)
WarpedImageToFixedSpace(transform, FixedImageArea, DataToTransform, botleft=None, area=None,\
 cval=None, extrapolate=False)
CompositeImage(FullImage, SubImage, offset)
CompositeImageWithZBuffer(FullImage, FullZBuffer, SubImage, SubZBuffer, offset)
CreateDistanceImage(shape, dtype=None)
EmptyDistanceBuffer(shape, dtype=np.float16)
TilesToImage(transforms, imagepaths, TargetRegion=None, target_space_scale=None,\
 source_space_scale=None)
TilesToImageParallel(transforms, imagepaths, TargetRegion=None, target_space_scale=None,\
 source_space_scale=None, pool=None)
TransformTile(transform, imagefullpath, distanceImage=None, target_space_scale=None,\
 TargetRegion=None, SingleThreadedInvoke=False)

"""

MIRROR = Mesh([(0, 0), (0, -10), (-10, 0), (-10, -10)], [(0, 0), (0, 10), (10, 0), (10, 10)])


def texture(height: int, width: int, sigma: float = 4.0) -> Any:
    noise = np.random.default_rng(0).normal(size=(height, width))
    smooth = ndimage.gaussian_filter(noise, sigma)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


@pytest.mark.parametrize("line", DOCUMENTED.strip().splitlines())
def test_documented_signatures(line: str) -> None:
    name, arguments = line.split("(", 1)
    scope: dict[str, Any] = {"np": np}
    exec(f"def {name}({arguments}: pass", scope)
    function = getattr(nornir_imageregistration, name)
    module = assemble if hasattr(assemble, name) else assemble_tiles
    assert getattr(module, name) is function
    have = [(p.name, p.default) for p in inspect.signature(function).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD]  # fmt: skip
    assert have == [(p.name, p.default) for p in inspect.signature(scope[name]).parameters.values()]
    assert "`" in (inspect.getdoc(function) or ""), "its docstring names what it stands for"


class TestRegions:
    def test_translation(self) -> None:
        target, source = assemble.DestinationROI_to_SourceROI(Translation((1, 2)), (0, 0), (2, 6))
        assert target.dtype == np.int64
        np.testing.assert_array_equal(target, [(y, x) for y in (0, 1) for x in range(6)])
        np.testing.assert_array_equal(source, target - np.array([1, 2]))

    @pytest.mark.parametrize(
        ("angle", "low", "high"), [(0, (0, 0), (1, 5)), (180, (0, 0), (1, 5)), (90, (0, 0), (5, 1))]
    )
    def test_turned_regions(
        self, angle: float, low: tuple[int, int], high: tuple[int, int]
    ) -> None:
        center, size = np.array([0.5, 2.5]), (np.array(high) - low) / 2
        turn = Rigid(size + low - center, np.deg2rad(angle), center)
        target, source = assemble.SourceROI_to_DestinationROI(turn, (0, 0), (2, 6))
        np.testing.assert_allclose(target.min(axis=0), low, atol=0.01)
        np.testing.assert_allclose(target.max(axis=0), high, atol=0.01)
        assert source.tolist()[7] == [1, 1]

    def test_fractions_and_what_a_mesh_does_not_map(self) -> None:
        args = (MIRROR, (5.5, -0.5), (2, 3))
        target, source = assemble.DestinationROI_to_SourceROI(*args)
        assert target.tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
        np.testing.assert_allclose(source, [(-5.5, -0.5), (-5.5, -1.5), (-6.5, -0.5), (-6.5, -1.5)])
        assert len(assemble.DestinationROI_to_SourceROI(*args, extrapolate=True)[0]) == 6
        nothing = assemble.DestinationROI_to_SourceROI(MIRROR, (500, 500), (2, 2))
        assert [a.shape for a in nothing] == [(0, 2), (0, 2)]

    @pytest.mark.parametrize("area", [(0, 3), (2, -1), (2.5, 3), (2, 3, 4)])
    def test_bad_areas(self, area: Any) -> None:
        with pytest.raises(ValueError, match="area"):
            assemble.DestinationROI_to_SourceROI(MIRROR, (0, 0), area)


class TestExtractRegion:
    IMAGE = np.arange(20, dtype=np.uint8).reshape(4, 5)

    def test_inside_outside_and_the_rest(self) -> None:
        cut = assemble.ExtractRegion(self.IMAGE, (1, 3), (2, 4), cval=9)
        assert cut.tolist() == [[8, 9, 9, 9], [13, 14, 9, 9]]
        np.testing.assert_array_equal(assemble.ExtractRegion(self.IMAGE), self.IMAGE)
        np.testing.assert_array_equal(
            assemble.ExtractRegion(self.IMAGE, (2, 1)), self.IMAGE[2:, 1:]
        )
        lazy = assemble.ExtractRegion(da.from_array(self.IMAGE, chunks=2), (-1, 3), (4, 4), cval=9)
        assert isinstance(lazy, da.Array)
        expected = assemble.ExtractRegion(self.IMAGE, (-1, 3), (4, 4), cval=9)
        np.testing.assert_array_equal(lazy, expected)


class TestWarping:
    @pytest.mark.row("E1")
    def test_the_documented_ramp(self) -> None:
        ramp = np.arange(1, 13, dtype=np.uint8).reshape(2, 6)
        moved = assemble.WarpedImageToFixedSpace(Translation((1, 2)), (4, 9), ramp)
        expected = np.zeros((4, 9))
        expected[1:3, 2:8] = ramp
        np.testing.assert_array_equal(moved, expected)
        part = assemble.WarpedImageToFixedSpace(Translation((1, 2)), (4, 9), ramp, (1, 1), (2, 3))
        np.testing.assert_array_equal(part, expected[1:3, 1:4])

    @pytest.mark.row("E4")
    def test_a_list_is_as_single_calls_and_stays_as_it_was(self, tmp_path: Path) -> None:
        turn = Rigid((3, 2), 0.4, (20, 20))
        image = texture(40, 50)
        nornir_imageregistration.SaveImage(str(tmp_path / "a.png"), image)
        images = [image, str(tmp_path / "a.png"), image.astype(np.float32)]
        before = list(images)
        many = assemble.WarpedImageToFixedSpace(turn, (44, 60), images, cval=[1, 2, -1])
        assert all(a is b for a, b in zip(images, before, strict=True))
        for one, result, fill in zip(images, many, (1, 2, -1), strict=True):
            alone = assemble.WarpedImageToFixedSpace(turn, (44, 60), one, cval=fill)
            np.testing.assert_array_equal(result, alone)
        assert many[2][0, 0] == -1
        with pytest.raises(InputError, match="3 images with 2"):
            assemble.WarpedImageToFixedSpace(turn, (44, 60), images, cval=[1, 2])

    @pytest.mark.row("E5")
    def test_there_and_back(self) -> None:
        image = texture(120, 110, 8).astype(np.float32)
        points = np.array([(0, 0), (0, 109), (119, 0), (119, 109), (60, 50)])
        moved = points + np.array([(2, 3), (-3, 1), (1, 4), (2, -2), (5, -6)])
        mesh = Mesh(points, moved)
        there = assemble.WarpedImageToFixedSpace(mesh, (130, 120), image, extrapolate=True)
        back = assemble.FixedImageToWarpedSpace(mesh, image.shape, there, extrapolate=True)
        assert np.abs(back - image)[9:-9, 9:-9].max() < 0.02 * 255

    def test_the_region_of_an_image_is_found(self) -> None:
        image = np.full((6, 8), 3, np.uint8)
        shift = Translation((-10, 5))
        whole = assemble.WarpedImageToFixedSpace(shift, None, image)
        np.testing.assert_array_equal(whole, image)
        assert assemble.TransformedRegion(shift, image) == ((-10, 5), (6, 8))

    def test_crop_undefined(self) -> None:
        image = np.full((40, 40), 5, np.uint8)
        square = [(10, 10), (10, 29), (29, 10), (29, 29)]
        crop = assemble.TransformImage(Mesh(square, square), (40, 40), image, True)
        assert crop.sum() == 5 * 20 * 20
        whole = assemble.TransformImage(Mesh(square, square), np.array([40, 40]), image, False)
        np.testing.assert_array_equal(whole, image)

    @pytest.mark.parametrize("shape", [(10, 5), (4097, 2048)])
    def test_an_identity_mesh(self, shape: tuple[int, int]) -> None:
        h, w = shape[0] - 1, shape[1] - 1
        corners = [(0, 0), (0, w), (h, 0), (h, w)]
        image = np.arange(shape[0] * shape[1], dtype=np.uint16).reshape(shape)
        result = assemble.TransformImage(Mesh(corners, corners), shape, image, True)
        assert result.dtype == np.uint16
        np.testing.assert_array_equal(result, image)

    def test_chunked_images_stay_lazy(self, tmp_path: Path) -> None:
        image = texture(90, 70)
        turn = Rigid((3.3, -2.1), 0.3, (45, 35))
        expected = assemble.TransformImage(turn, (95, 80), image, False)
        array = zarr.create_array(str(tmp_path / "a.zarr"), shape=image.shape, chunks=(32, 32),
                                  dtype="uint8")  # fmt: skip
        array[:] = image
        for source in (da.from_array(image, chunks=33), array, str(tmp_path / "a.zarr")):
            lazy = assemble.TransformImage(turn, (95, 80), source, False)
            assert isinstance(lazy, da.Array)
            np.testing.assert_array_equal(lazy.compute(scheduler="synchronous"), expected)

    def test_bad_input(self) -> None:
        with pytest.raises(InputError, match="a transform is expected"):
            assemble.TransformImage("x", (4, 4), np.zeros((4, 4)), False)  # type: ignore[arg-type]
        with pytest.raises(FileNotFoundError):
            assemble.TransformImage(MIRROR, (4, 4), "nowhere.png", False)


class TestStos:
    @pytest.fixture
    def stos(self, tmp_path: Path) -> Path:
        save = nornir_imageregistration.SaveImage
        save(str(tmp_path / "fixed.png"), texture(100, 200))
        save(str(tmp_path / "moving.png"), np.full((40, 60), 200, np.uint8))
        save(str(tmp_path / "fm.png"), np.ones((100, 200), bool))
        half = np.ones((40, 60), bool)
        half[:, :30] = False
        save(str(tmp_path / "mm.png"), half)
        grid = parse_transform(
            "GridTransform_double_2_2 vp 8 20 10 79 10 20 49 79 49 fp 7 0 1 1 0 0 59 39"
        )
        write_stos(
            tmp_path / "a.stos",
            Stos(StosImage("fixed.png", (100, 200), mask="fm.png"),
                 StosImage("moving.png", (40, 60), mask="mm.png"), grid),
        )  # fmt: skip
        return tmp_path / "a.stos"

    def test_images_of_the_file(self, stos: Path) -> None:
        out = stos.parent / "out.png"
        result = assemble.TransformStos(str(stos), str(out))
        assert result.shape == (100, 200)
        assert result[10:50, 20:80].min() == 200
        assert result.sum() == 200 * 40 * 60
        np.testing.assert_array_equal(nornir_imageregistration.LoadImage(str(out)), result)
        masked = assemble.TransformStos(stos, use_masks=True)
        assert masked[10:50, 20:50].max() == 0
        assert masked[10:50, 50:80].min() == 200

    def test_scale_and_given_images(self, stos: Path) -> None:
        small = np.full((20, 30), 7, np.uint8)
        result = assemble.TransformStos(stos, None, np.zeros((50, 100)), small, scalar=0.5)
        assert result.shape == (50, 100)
        assert result[5:24, 10:39].min() == 7
        transform = assemble.ParameterToStosTransform(stos)
        again = assemble.TransformStos(transform, None, np.zeros((50, 100)), small, scalar=0.5)
        np.testing.assert_array_equal(again, result)
        lazy = assemble.TransformStos(stos, warpedImage=da.full((40, 60), 7, chunks=16))
        assert isinstance(lazy, da.Array)

    def test_flipped_images_are_honoured(self, stos: Path) -> None:
        ramp = np.arange(16, dtype=np.uint8).reshape(4, 4)
        for side in ("fixed", "moving"):
            images = {k: StosImage(k, (4, 4), flipped=k == side) for k in ("fixed", "moving")}
            file = Stos(images["fixed"], images["moving"], Translation((0, 0)))
            result = assemble.TransformStos(file, None, ramp, ramp)
            np.testing.assert_array_equal(result, ramp[::-1])

    def test_what_stands_for_a_transform(self, stos: Path) -> None:
        kinds = [stos, str(stos), MIRROR, "TranslationTransform_double_2_2 vp 2 1 2 fp 0"]
        for kind in kinds:
            assert isinstance(assemble.ParameterToStosTransform(kind), Transform)
        with pytest.raises(TypeError, match="not int"):
            assemble.ParameterToStosTransform(5)
        with pytest.raises(ValueError, match="no such file"):
            assemble.ParameterToStosTransform("missing.stos")

    def test_missing_images(self, stos: Path) -> None:
        (stos.parent / "moving.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"moving\.png"):
            assemble.TransformStos(stos)
        with pytest.raises(InputError, match="names none"):
            assemble.TransformStos(MIRROR)


class TestDistances:
    def test_exact(self) -> None:
        image = assemble_tiles.CreateDistanceImage((10, 10))
        assert image.dtype == np.float32
        assert image[0, 0] == pytest.approx(6.3640, abs=1e-4)
        assert assemble_tiles.CreateDistanceImage((11, 11))[0, 0] == pytest.approx(7.0711, abs=1e-4)
        four = assemble_tiles.CreateDistanceImage((4, 4), np.float64)
        assert four.min() == pytest.approx(0.7071, abs=1e-4)
        assert four.max() == pytest.approx(2.1213, abs=1e-4)

    @pytest.mark.parametrize(
        ("variant", "expected"),
        [("stretched", (7.07, 7.78, 7.43, 5.0, 5.53)), ("split", (7.78, 7.07, 7.43, 5.5, 5.0249))],
    )
    def test_the_formulas_of_stored_data(self, variant: Any, expected: tuple[float, ...]) -> None:
        a, b, c = (assemble_tiles.CreateDistanceImage(s, variant=variant)
                   for s in ((10, 10), (11, 11), (10, 11)))  # fmt: skip
        have = a[0, 0], b[0, 0], c[0, 0], c[0, 5], c[4, 0]
        np.testing.assert_allclose(have, expected, atol=0.005)

    def test_buffers(self) -> None:
        assert assemble_tiles.EmptyDistanceBuffer((2, 3)).tolist() == [[65504.0] * 3] * 2
        assert assemble_tiles.EmptyDistanceBuffer((1, 1), np.uint8)[0, 0] == 255


class TestComposites:
    def test_what_is_not_zero_is_pasted(self) -> None:
        full = np.full((4, 4), 9)
        result = assemble_tiles.CompositeImage(full, np.array([[1, 0], [0, 2]]), (1, 2))
        assert result is full
        assert full[1:3, 2:].tolist() == [[1, 9], [9, 2]]

    def test_the_nearer_pixel_wins_and_the_first_keeps_ties(self) -> None:
        full, depth = np.full((2, 2), 9.0), np.full((2, 2), 5.0)
        part, near = np.ones((2, 2)), np.array([[4.0, 5.0], [6.0, 1.0]])
        result = assemble_tiles.CompositeImageWithZBuffer(full, depth, part, near, (0, 0))
        assert result is full
        assert full.tolist() == [[1, 9], [9, 1]]
        assert depth.tolist() == [[4, 5], [5, 1]]

    def test_what_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match="reaches outside"):
            assemble_tiles.CompositeImage(np.zeros((4, 4)), np.zeros((2, 2)), (3, 3))
        with pytest.raises(ValueError, match="one shape"):
            assemble_tiles.CompositeImageWithZBuffer(
                np.zeros((4, 4)), np.zeros((4, 5)), np.zeros((2, 2)), np.zeros((2, 2)), (0, 0)
            )


class TestMosaics:
    WHOLE = texture(180, 220)
    CORNERS = ((0, 0), (0, 110), (90, 0), (90, 110))

    @pytest.fixture
    def paths(self, tmp_path: Path) -> list[str]:
        paths = []
        for k, (y, x) in enumerate(self.CORNERS):
            paths.append(str(tmp_path / f"{k} ü.png"))
            nornir_imageregistration.SaveImage(paths[-1], self.WHOLE[y : y + 90, x : x + 110])
        return paths

    @property
    def shifts(self) -> list[Transform]:
        return [
            parse_transform("LegendrePolynomialTransform_double_2_2_1 vp 6 1 0 1 1 1 0 "
                            f"fp 4 {x} {y} 55 45")
            for y, x in self.CORNERS
        ]  # fmt: skip

    @pytest.mark.row("F1")
    def test_a_mosaic_is_what_it_was_cut_from(self, paths: list[str]) -> None:
        image, mask = assemble_tiles.TilesToImage(self.shifts, paths)
        assert isinstance(image, np.ndarray)
        np.testing.assert_array_equal(image, self.WHOLE)
        assert mask.all()
        assert mask.dtype == bool
        part, _ = assemble_tiles.TilesToImage(self.shifts, paths, (31, 40, 150, 199))
        np.testing.assert_array_equal(part, self.WHOLE[31:150, 40:199])
        half, _ = assemble_tiles.TilesToImage(self.shifts, paths, None, 0.5, order=0)
        np.testing.assert_array_equal(half, self.WHOLE[::2, ::2])

    def test_parallel_is_the_same(self, paths: list[str]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        turned = [Rigid(c, 0.03 * k, (45, 55)) for k, c in enumerate(self.CORNERS)]
        serial = assemble_tiles.TilesToImage(turned, paths)
        with ThreadPoolExecutor(2) as pool:
            parallel = assemble_tiles.TilesToImageParallel(turned, paths, pool=pool, block=64)
        for one, other in zip(serial, parallel, strict=True):
            np.testing.assert_array_equal(one, other)

    def test_chunked_tiles_stay_lazy(self) -> None:
        tiles = [da.from_array(self.WHOLE[y : y + 90, x : x + 110], chunks=40)
                 for y, x in self.CORNERS]  # fmt: skip
        image, mask = assemble_tiles.TilesToImage(self.shifts, tiles)
        assert isinstance(image, da.Array)
        np.testing.assert_array_equal(image, self.WHOLE)
        assert isinstance(mask, da.Array)

    def test_scale_of_stored_tiles_is_found(self, paths: list[str]) -> None:
        small = [self.WHOLE[y : y + 90 : 2, x : x + 110 : 2] for y, x in self.CORNERS]
        image, _ = assemble_tiles.TilesToImage(self.shifts, small)
        np.testing.assert_array_equal(image, self.WHOLE[::2, ::2])

    @pytest.mark.row("F5")
    def test_missing_tiles(self, paths: list[str]) -> None:
        Path(paths[2]).unlink()
        with pytest.raises(InputError, match="1 of 4 tiles cannot be opened") as error:
            assemble_tiles.TilesToImage(self.shifts, paths)
        assert "2 ü.png" in error.value.problems[0]
        result = assemble_tiles.TilesToImage(self.shifts, paths, on_error="skip")
        assert len(result.skipped) == 1
        assert result[1].sum() == 3 * 90 * 110

    def test_one_tile(self, paths: list[str]) -> None:
        tile = assemble_tiles.TransformTile(self.shifts[3], paths[3])
        np.testing.assert_array_equal(tile.image, self.WHOLE[90:, 110:])
        assert tile.rendered_target_space_origin == (90, 110)
        expected = assemble_tiles.CreateDistanceImage((90, 110))
        np.testing.assert_allclose(tile.centerDistanceImage, expected, rtol=1e-6)
        given = assemble_tiles.TransformTile(self.shifts[3], paths[3], expected, None,
                                             (100, 120, 150, 400))  # fmt: skip
        assert given.image.shape == (50, 100)
        np.testing.assert_allclose(given.centerDistanceImage, expected[10:60, 10:], rtol=1e-6)
        missing = assemble_tiles.TransformTile(self.shifts[0], "nowhere.png")
        assert missing.image is None
        assert "nowhere.png" in (missing.errormsg or "")

    @pytest.mark.row("F4")
    @pytest.mark.parametrize("size", [(64, 50), (90, 110), (500, 500)])
    def test_cutting_a_mosaic(self, paths: list[str], size: tuple[int, int]) -> None:
        rows, columns = assemble_tiles.MosaicTileGridShape(self.shifts, paths, size)
        tiles = {}
        for row, column, tile in assemble_tiles.MosaicToTilesGenerator(self.shifts, paths, size):
            assert (row, column) not in tiles
            assert tile.shape == size
            tiles[row, column] = tile
        assert len(tiles) == rows * columns
        whole = np.block([[tiles[r, c] for c in range(columns)] for r in range(rows)])
        np.testing.assert_array_equal(whole[:180, :220], self.WHOLE)
        assert whole[180:].sum() == whole[:, 220:].sum() == 0
