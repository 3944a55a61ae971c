"""Origins: what reports are counted under, by number; what is remembered is measured."""

from datetime import date

import numpy as np

from gamepulse.origins import ID_BYTES, KNOWN_BYTES, Origins
from gamepulse.rollup import CARRIER, CLIENT, PLACE, SERVER, SETS

TEXT = "KR|KR-11|AS64500|wired|pc|1.0|eu-1 a,eu-1 b"


def test_combinations_are_what_labels_and_places_come_to() -> None:
    origins = Origins(lambda _, dimension, value: "(other)" if dimension == "build" else value, date.min)
    of_labels, places = origins.of(1, 2, TEXT)
    assert origins.of(1, 2, TEXT) == (of_labels, places)
    nowhere, unknown = origins.of(1, 2, "||||||")
    assert [origins.places[one][2:] for one in (*places, *unknown)] == [("eu-1", "a"), ("eu-1", "b"), ("unknown", "unknown")]
    labels = np.array([of_labels, of_labels, nowhere])
    found = {}
    for number in range(len(SETS)):
        keys = origins.keys(number, labels, np.array([*places, *unknown]))
        found[number] = [one[3] for one in origins.unnamed(number, np.unique(keys)).values()]
    assert found[PLACE] == [("eu-1", "KR"), ("unknown", "ZZ")]
    assert found[CLIENT] == [("eu-1", "KR", "wired", "pc", "(other)"), ("unknown", "ZZ", "unknown", "unknown", "(other)")]
    assert found[SERVER] == [("eu-1", "a"), ("eu-1", "b"), ("unknown", "unknown")]
    assert found[CARRIER] == [("KR", "AS64500"), ("ZZ", "unknown")]


def test_all_that_is_remembered_counts_towards_its_limit() -> None:
    origins = Origins(lambda _, __, value: value, date.min)
    of_labels, places = origins.of(1, 2, TEXT)
    labels_text, _, places_text = TEXT.rpartition("|")
    assert origins.size_bytes == len(labels_text) + len(places_text) + 2 * KNOWN_BYTES
    before = origins.size_bytes
    keys = origins.keys(PLACE, np.array([of_labels]), np.array(places[:1]))
    unnamed = origins.unnamed(PLACE, keys)
    origins.name(unnamed, np.array([7]))
    assert origins.size_bytes == before + ID_BYTES
    assert origins.unnamed(PLACE, keys) == {}
    assert origins.ids(PLACE, keys).tolist() == [7]
