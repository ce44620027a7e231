"""Embeddings are kept by content, never beyond the limit, and never mistaken."""

import os

import numpy as np
import pytest

from vesalius.pipeline.embeddings import EmbeddingCache, key_of, user_cache

ARRAY = np.arange(1000, dtype=np.float32)


def test_what_is_kept_comes_back_and_what_is_not_is_none(tmp_path):
    cache = EmbeddingCache(tmp_path / "deep/cache")
    assert cache.recall("a") is None
    cache.keep("a", {"features": ARRAY})
    assert np.array_equal(cache.recall("a")["features"], ARRAY)
    assert [path.name for path in (tmp_path / "deep/cache").iterdir()] == ["a.npz"]


def test_the_one_used_longest_ago_goes_first(tmp_path):
    cache = EmbeddingCache(tmp_path, limit_bytes=3 * 4500)
    for i, name in enumerate("abc"):
        cache.keep(name, {"features": ARRAY})
        os.utime(tmp_path / f"{name}.npz", (i, i))
    assert cache.recall("a") is not None  # a is the youngest now
    cache.keep("d", {"features": ARRAY})
    assert {path.stem for path in tmp_path.iterdir()} == {"a", "c", "d"}


def test_the_limit_holds_even_for_one_that_is_too_large(tmp_path):
    cache = EmbeddingCache(tmp_path, limit_bytes=100)
    cache.keep("a", {"features": ARRAY})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", [b"", b"no archive", b"PK\x03\x04 cut", "another", "packed"])
def test_a_damaged_file_counts_as_absent(tmp_path, damage):
    cache, path = EmbeddingCache(tmp_path), tmp_path / "a.npz"
    cache.keep("a", {"features": ARRAY})
    if damage == "another":
        np.save(tmp_path / "a.npy", ARRAY)
        damage = (tmp_path / "a.npy").read_bytes()
    elif damage == "packed":  # a bit of the compression's number has changed
        whole = bytearray(path.read_bytes())
        whole[whole.index(b"PK\x01\x02") + 10] ^= 64
        damage = bytes(whole)
    path.write_bytes(damage)
    assert cache.recall("a") is None


def test_a_pickle_is_not_opened(tmp_path):
    np.savez(tmp_path / "a.npz", features=np.array([{"run": "me"}], dtype=object))
    assert EmbeddingCache(tmp_path).recall("a") is None


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path):
    (tmp_path / "file").write_text("")
    EmbeddingCache(tmp_path / "file").keep("a", {"features": ARRAY})


def test_a_cache_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path, limit_bytes=5000)
    cache.keep("a", {"features": ARRAY})

    def refused(*what, **rest):
        raise PermissionError

    monkeypatch.setattr("os.utime", refused)
    monkeypatch.setattr("pathlib.Path.unlink", refused)
    assert np.array_equal(cache.recall("a")["features"], ARRAY)
    cache._evict()
    monkeypatch.undo()
    cache.keep("b", {"features": ARRAY})
    assert cache.recall("a") is None


def test_the_key_tells_pictures_shapes_types_and_models_apart():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    keys = {key_of(picture, "m"), key_of(picture, "n"), key_of(picture.reshape(4, 2, 3), "m"), key_of(picture + 1, "m"),
            key_of(picture.astype(np.int8), "m")}  # fmt: skip
    assert len(keys) == 5 and key_of(picture.copy(), "m") in keys


def test_the_user_cache_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "vesalius/embeddings"
