"""Jobs on a Ray cluster of two nodes on this machine: equal files, also where a node dies, and what is refused."""

from __future__ import annotations

import dataclasses
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from ray_jobs import DyingJob
from typing_extensions import Unpack

import deconvviz as dv
from deconvviz.cli.main import cli
from deconvviz.data.shards import shard_path
from deconvviz.errors import DataError, LayerNotFound, MismatchError
from deconvviz.results.features import Features
from deconvviz.results.results import Result
from deconvviz.results.tiles import KIND, SCHEMA
from deconvviz.run.cluster import RayOptions
from deconvviz.run.on_ray import MARK, _shard_files, _slots, joined_on_ray, run_on_ray
from deconvviz.run.sharding import ShardedKeywords
from deconvviz.run.shipping import Place, RemoteImages, RemoteModel
from deconvviz.studies.atlas import on_ray
from deconvviz.studies.evaluation.result import Evaluation
from deconvviz.studies.mining.on_ray import MiningJob, mine_on_ray

ray: Any = pytest.importorskip("ray")
IMAGES, LAYERS = 64, ("conv1", "conv3")  # shards and batches of whole size: torch sums one image otherwise


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, of which the first is the head; a test may remove the second and add another."""
    from ray.cluster_utils import Cluster

    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    nodes.add_node(num_cpus=1)
    yield nodes
    ray.shutdown()
    nodes.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("ray") / "scenes.h5"
    dv.pack(dv.Scenes(IMAGES, seed=3), path, progress=False)
    return path


def run(*arguments: object) -> str:
    outcome = CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def refused(*arguments: object) -> str:
    """Return the one line that a command says which is refused."""
    from deconvviz.cli.main import main

    outcome = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert outcome.exit_code != 0 and callable(main)
    return str(outcome.exception)


def mined_arrays(path: pathlib.Path) -> dict[str, Any]:
    mined = dv.load_mined(path)
    assert mined.complete
    arrays: dict[str, Any] = {"config": mined.config, "done": mined.done}
    for name, layer in mined.items():
        for key in ("values", "images", "positions"):
            arrays[f"{name}/{key}"] = getattr(layer, key)
        for key in ("fired", "maximum", "broken", "images", "total"):
            arrays[f"{name}/activity/{key}"] = getattr(layer.activity, key)
    return arrays


def assert_equal(ours: dict[str, Any], theirs: dict[str, Any], rounding: float = 0.0) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.endswith("total"):
            np.testing.assert_allclose(value, theirs[name], rtol=rounding, atol=rounding)  # a sum over images
        elif isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, theirs[name], name)
        else:
            assert value == theirs[name], name


@pytest.fixture(scope="module")
def alone(store: pathlib.Path) -> pathlib.Path:
    """What `mine` writes without Ray."""
    out = store.with_name("alone.h5")
    run("mine", "demo", store, "-l", "conv1", "-l", "conv3", "-o", out, "-k", "4", "--batch-size", "2", "--quiet")
    return out


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--ray-shards", "8"], ["--ray-shards", "2", "--ship"]])
def test_mining_on_two_nodes_gives_the_file_of_a_single_run(
    cluster: Any, store: pathlib.Path, alone: pathlib.Path, tmp_path: pathlib.Path, options: list[str]
) -> None:
    out = tmp_path / "mined.h5"
    asked = ["mine", "demo", store, "-l", "conv1", "-l", "conv3", "-o", out, "-k", "4", "--batch-size", "2", "--quiet"]
    run(*asked, *options, f"--ray={cluster.address}")
    assert_equal(mined_arrays(out), mined_arrays(alone), rounding=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mined.h5"]  # the shards are gone
    before = out.stat().st_mtime_ns
    run(*asked, f"--ray={cluster.address}")  # complete: nothing is done again
    assert out.stat().st_mtime_ns == before


@pytest.mark.slow
def test_paths_are_those_of_the_folder_that_the_command_runs_in(
    cluster: Any, alone: pathlib.Path, store: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node works in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.h5").symlink_to(store)
    (tmp_path / "net.py").write_text("import deconvviz as dv\ndef demo(): return dv.load_model('demo').model\n")
    weights = pathlib.Path(dv.__file__).parent / "models" / "demo.pth"
    (tmp_path / "w.pth").symlink_to(weights)
    asked = ["mine", "net.py:demo", "s.h5", "--weights", "w.pth", "-l", "conv1", "-o", "m.h5", "-k", "4", "--quiet"]
    run(*asked, "--batch-size", "2", "--ray-shards", "2", f"--ray={cluster.address}")
    ours, theirs = dv.load_mined("m.h5"), dv.load_mined(alone)
    np.testing.assert_array_equal(ours["conv1"].images, theirs["conv1"].images)
    assert ours.sources["model"] == f"{tmp_path / 'net.py'}:demo"


@pytest.mark.slow
def test_evaluation_on_two_nodes_gives_the_values_of_a_single_run(
    cluster: Any, store: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The same batches are measured; this network's values are the same in every bit by one thread and by two."""
    asked = ["evaluate", "demo", "scenes:20:3", "-l", "relu5", "-m", "grad-cam", "-m", "rise", "--option", "masks=20"]
    asked += ["--metrics", "adcc,localisation,curves", "--quiet", "--limit", "19"]
    run(*asked, "-o", tmp_path / "alone.csv")
    run(*asked, "-o", tmp_path / "ray.csv", f"--ray={cluster.address}", "--ray-shards", "3")
    ours, theirs = Evaluation.load(tmp_path / "ray.h5"), Evaluation.load(tmp_path / "alone.h5")
    assert ours.complete and ours.config == theirs.config and ours.names == theirs.names
    for method, values in theirs.values.items():
        for name in set(theirs.columns) - {"seconds"}:
            np.testing.assert_array_equal(ours.column(method, name), theirs.column(method, name), name)
        np.testing.assert_array_equal(ours.maps[method], theirs.maps[method])
        assert len(values) == 19
    for name, curves in theirs.curves.items():
        np.testing.assert_array_equal(ours.curves[name], curves)
    np.testing.assert_array_equal(ours.pictures, theirs.pictures)
    np.testing.assert_array_equal(ours.explained, theirs.explained)
    assert not (tmp_path / "ray.h5.shards").exists()
    run(*asked, "-o", tmp_path / "ray.csv", "--ray=127.0.0.1:9")  # complete: no cluster is asked


@pytest.mark.slow
def test_features_on_two_nodes_are_those_of_a_single_run(cluster: Any, tmp_path: pathlib.Path) -> None:
    asked = ["probe", "demo", "scenes:60:3", "-l", "conv3", "-l", "relu5", "--per-class", "2", "--splits", "2"]
    asked += ["--costs", "1", "--quiet"]
    run(*asked, "-o", tmp_path / "a.csv", "--features", tmp_path / "a.h5")
    where = [f"--ray={cluster.address}", "--ray-shards", "3"]
    run(*asked, "-o", tmp_path / "b.csv", "--features", tmp_path / "b.h5", *where)
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    for name in ("{}.h5", "{}.random.h5"):  # the random network is the same on every node
        ours, theirs = (Features(tmp_path / name.format(run)) for run in "ba")
        assert ours.config == theirs.config and ours.complete
        for layer in theirs.layers:
            np.testing.assert_array_equal(ours.rows(layer, np.arange(60)), theirs.rows(layer, np.arange(60)))
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    before = (tmp_path / "b.h5").stat().st_mtime_ns
    run(*asked, "-o", tmp_path / "c.csv", "--features", tmp_path / "b.h5", *where)  # complete: nothing is done again
    assert (tmp_path / "b.h5").stat().st_mtime_ns == before
    other = [*asked, "--weights", "none", "-o", tmp_path / "d.csv", "--features", tmp_path / "b.h5", *where]
    assert "made with other settings" in refused(*other)  # these are the features of other weights


@pytest.mark.slow
def test_galleries_of_an_atlas_on_two_nodes_are_those_of_a_single_run(
    cluster: Any, store: pathlib.Path, alone: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [
        "atlas",
        "demo",
        store,
        "-l",
        "conv1",
        "-l",
        "conv3",
        "--filters",
        "first",
        "--count",
        "3",
        "--top",
        "2",
        "--decisions",
        "0",
    ]
    asked += ["--mined", alone, "--snapshots", "demo", "--quiet"]
    run(*asked, "-o", tmp_path / "alone")
    monkeypatch.setattr(on_ray.blocks_of, "__defaults__", (2,))
    run(*asked, "-o", tmp_path / "ray", f"--ray={cluster.address}")
    assert on_ray.blocks_of({"conv1": 3}) == [("conv1", 0, 2), ("conv1", 2, 3)]
    assert sorted(path.name for path in (tmp_path / "ray/data").glob("*filters*")) == []
    for file in ("00-conv1.h5", "01-conv3.h5"):
        ours, theirs = (Result.load(tmp_path / folder / "data" / file, KIND, SCHEMA) for folder in ("ray", "alone"))
        assert ours.config == theirs.config and ours.arrays.keys() == theirs.arrays.keys()
        for name, array in theirs.arrays.items():
            if array.dtype.kind == "f":
                np.testing.assert_allclose(ours.arrays[name], array, rtol=1e-4, atol=1e-4, err_msg=name)
            elif not name.endswith(("/data", "/offsets")):  # compressed tiles: a value may be rounded the other way
                different = np.asarray(ours.arrays[name], np.int64) - np.asarray(array, np.int64)
                assert np.abs(different).max(initial=0) <= 1, name
    assert "--ray-shards out" in refused(*asked, "-o", tmp_path / "x", "--ray", "--ray-shards", "2")


@pytest.mark.kill
def test_a_node_that_dies_costs_only_what_was_not_committed(
    cluster: Any, store: pathlib.Path, alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """The second node is taken away in the middle, again and again; the file is the same in every bit."""
    files = []
    for time_ in range(2):
        out = tmp_path / f"{time_}.h5"
        node = cluster.add_node(num_cpus=1)
        killer = threading.Timer(0.5 + 2 * time_, cluster.remove_node, [node])
        asked = ["mine", "demo", store, "-l", "conv1", "-l", "conv3", "-o", out, "-k", "4", "--quiet"]
        asked += ["--batch-size", "2", "--commit-every", "1", "--ray-shards", "4", f"--ray={cluster.address}"]
        killer.start()
        run(*asked)
        killer.join()
        files.append(mined_arrays(out))
    assert_equal(files[0], files[1])
    assert_equal(files[0], mined_arrays(alone), rounding=1e-6)


def mining_job(store: pathlib.Path, kind: type[MiningJob] = MiningJob, **options: Unpack[ShardedKeywords]) -> MiningJob:
    preprocess = dv.Preprocess.from_dict(dv.load_model("demo").settings)
    model = RemoteModel.of("demo", "DEFAULT", "auto", preprocess, "cpu")
    images = RemoteImages.of(str(store))
    return kind(model=model, images=images, sources={}, layers=LAYERS, k=4, options=options)


@pytest.mark.kill
def test_a_process_that_is_killed_goes_on_where_its_file_stands(
    cluster: Any, store: pathlib.Path, alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    job, folder = mining_job(store, DyingJob, batch_size=2, commit_every=1), tmp_path / "shards"
    paths = [shard_path(folder, index, 2) for index in range(2)]
    with dv.RunOptions(progress=False).bar("image", IMAGES, "mining") as bar:
        files = run_on_ray(job, folder, RayOptions(address=cluster.address), bar, lambda slots: paths)
    assert sum(map(job.done, files)) == IMAGES
    began = [int(path.name.rpartition("-")[2]) for path in folder.iterdir() if "began-at" in path.name]
    assert len(began) == 2 and min(began) > 0
    dv.merge(files, tmp_path / "merged.h5")
    assert_equal(mined_arrays(tmp_path / "merged.h5"), mined_arrays(alone), rounding=1e-6)


@pytest.mark.slow
def test_what_is_refused(cluster: Any, store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "m.h5"
    asked = ["mine", "demo", store, "-l", "conv1", "-o", out, "--quiet"]
    assert "no Ray cluster answers at 127.0.0.1:9" in refused(*asked, "--ray=127.0.0.1:9")
    assert "no Ray cluster answers at nonsense" in refused(*asked, "--ray=nonsense")
    assert "add --ray" in refused(*asked, "--ray-shards", "2")
    assert "leave --shard out" in refused(*asked, "--ray", "--shard", "0/2")
    assert "nearest: conv1" in refused("mine", "demo", store, "-l", "conv11", "-o", out, f"--ray={cluster.address}")
    few = refused(*asked, f"--ray={cluster.address}", "--ray-cpus", "99")
    assert "99 CPUs wanted for each shard; the cluster has 2" in few
    assert "--features" in refused("probe", "demo", "scenes:60", "-o", tmp_path / "p.csv", "--ray")
    assert not out.exists() and not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_division_is_gone_on_with_and_no_other(cluster: Any, store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "m.h5.shards"
    folder.mkdir()
    (folder / "shard-00001-of-00003.h5").touch()
    asked = ["mine", "demo", store, "-l", "conv1", "-o", tmp_path / "m.h5", "--quiet", f"--ray={cluster.address}"]
    assert "division into 3, 2 wanted; go on with --ray-shards 3" in refused(*asked, "--ray-shards", "2")
    (folder / "shard-00001-of-00003.h5").unlink()
    run("mine", "demo", store, "-l", "conv3", "--shard", "0/3", "-o", folder / "shard-00000-of-00003.h5", "--quiet")
    message = refused(*asked)  # a shard of another job
    assert "made with other settings" in message and "layers" in message
    assert not (tmp_path / "m.h5").exists() and not (folder / MARK).exists()


@pytest.mark.slow
def test_a_node_without_the_files_is_named(cluster: Any, store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    missing = store.with_name("moved.h5")
    missing.write_bytes(store.read_bytes())
    job = mining_job(missing)
    missing.unlink()
    options = RayOptions(address=cluster.address, shards=1)
    message = r"node .* has no .*moved.h5; .*--ship"
    with dv.RunOptions(progress=False).bar("image", IMAGES, "mining") as bar, pytest.raises(DataError, match=message):
        joined_on_ray(job, tmp_path / "m.h5", options, bar, IMAGES, list)


def test_an_unfinished_file_of_a_run_without_ray(store: pathlib.Path, tmp_path: pathlib.Path) -> None:
    loaded = dv.load_model("demo")
    preprocess = dv.Preprocess.from_dict(loaded.settings)
    network = dv.capture(loaded.model, preprocess.shape)
    mined = dv.mine(network, dv.ImageStore.open(store), ["conv1"], k=4, preprocess=preprocess, progress=False)
    dataclasses.replace(mined, done=3).save(tmp_path / "m.h5")
    job = dataclasses.replace(mining_job(store), layers=("conv1",))
    images, where = dv.ImageStore.open(store), (tmp_path / "m.h5", RayOptions())
    with pytest.raises(DataError, match="was begun without Ray"):
        mine_on_ray(network, images, job, *where)
    with pytest.raises(MismatchError, match="k"):
        mine_on_ray(network, images, dataclasses.replace(job, k=5), *where)
    with pytest.raises(LayerNotFound):
        mine_on_ray(network, images, dataclasses.replace(job, layers=("conv7",)), *where)


def test_there_are_never_more_shards_than_images(tmp_path: pathlib.Path) -> None:
    assert len(_shard_files(tmp_path, RayOptions(), slots=8, most=100)) == 16
    assert len(_shard_files(tmp_path, RayOptions(), slots=8, most=5)) == 5
    assert len(_shard_files(tmp_path, RayOptions(shards=7), slots=8, most=5)) == 5


def test_slots_by_processors_and_gpus() -> None:
    assert _slots({"CPU": 8.0}, 3, 0) == 2 and _slots({"CPU": 8.0, "GPU": 2.0}, 1, 0.25) == 8
    assert _slots({"CPU": 8.0, "GPU": 1.0}, 1, 1) == 1
    with pytest.raises(DataError, match="cpus"):
        RayOptions(cpus=0)


def test_places_find_files_or_say_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("a.py", "b.txt"):
        (tmp_path / "code" / name).write_text(name)
    place = Place.of(tmp_path / "code", "*.py")
    assert place.here() == str(tmp_path / "code")
    sent: list[bytes] = []
    shipped = place.shipped(lambda content: sent.append(content) or len(sent))
    assert sent == [b"a.py"] and shipped.parts is not None and [part.name for part in shipped.parts] == ["a.py"]
    with pytest.raises(DataError, match="nothing to ship"):
        Place.of(tmp_path / "none").shipped(lambda content: content)
    with pytest.raises(DataError, match="--ship"):
        Place.of(tmp_path / "none").here()


def test_a_model_of_a_package_is_sent_with_all_of_its_code(tmp_path: pathlib.Path) -> None:
    package = tmp_path / "nets" / "inner"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "net.py").touch()
    model = RemoteModel.of(f"{package / 'net.py'}:make", "none", "auto", dv.Preprocess(), "cpu")
    assert model.file is not None and model.file.path == str(tmp_path) and model.weights_file is None
    assert model.names_here() == (f"{package / 'net.py'}:make", "none")
