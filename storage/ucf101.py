"""Reads the official split files of UCF101 (Soomro et al. 2012): trainlistNN.txt, testlistNN.txt and classInd.txt.

    classInd.txt      1 ApplyEyeMakeup
    trainlist01.txt   ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1
    testlist01.txt    ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi

The clips of a class whose names share ``gNN`` were cut from one recording: class and ``gNN`` are the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from cdmodel.errors import SourceError
from cdmodel.types import Split
from storage.annotation import AnnotatedVideo, Annotation, Line, lines_of, read_text
from storage.uri import base_name, join_uri, parent_uri

CLASSES_NAME = "classInd.txt"
_TRAIN_LIST = re.compile(r"trainlist(\d+)\.txt")
_CLASS = re.compile(r"(?P<number>\d+)\s+(?P<label>\S+)")
# The file name may spell the class in another way: HandstandPushups/v_HandStandPushups_g01_c01.avi.
_VIDEO = re.compile(r"(?P<label>[^/\s]+)/(?P<file>[^/\s]+_(?P<take>g\d+)_c\d+\.\w+)(\s+(?P<number>\d+))?")


def read_ucf101(train_list: str) -> Annotation:
    """Read the split of a training list, given by its absolute name; the other two files lie beside it.

    Raises:
        SourceError: a file cannot be read, or a line of it is not what it should be.
    """
    numbered = _TRAIN_LIST.fullmatch(base_name(train_list))
    if numbered is None:
        raise SourceError(train_list, "is no split of UCF101; name its training list, for example trainlist01.txt")
    folder = parent_uri(train_list)
    test_name = f"testlist{numbered[1]}.txt"
    classes = parse_classes(read_text(join_uri(folder, CLASSES_NAME)))
    train = parse_list(base_name(train_list), read_text(train_list), classes, None)
    test = parse_list(test_name, read_text(join_uri(folder, test_name)), classes, "test")
    return Annotation(source=train_list, videos=(*train, *test))


def parse_classes(text: str) -> dict[str, int]:
    """Return the number of each class of classInd.txt.

    Raises:
        SourceError: a line is not of the format.
    """
    numbers: dict[str, int] = {}
    for line in lines_of(CLASSES_NAME, text):
        match = _CLASS.fullmatch(line.text)
        if match is None:
            raise SourceError(line.place, f"expected a number and a class, got {line.text!r}")
        numbers[match["label"]] = int(match["number"])
    return numbers


def parse_list(name: str, text: str, classes: Mapping[str, int], split: Split | None) -> tuple[AnnotatedVideo, ...]:
    """Return the videos of the list ``name``, all of one split.

    Raises:
        SourceError: a line is not of the format, or its class is not that of classInd.txt.
    """
    return tuple(_videos(name, text, classes, split))


def _videos(name: str, text: str, classes: Mapping[str, int], split: Split | None) -> Iterator[AnnotatedVideo]:
    for line in lines_of(name, text):
        match = _VIDEO.fullmatch(line.text)
        if match is None:
            raise SourceError(line.place, f"expected Class/v_Class_g01_c01.avi and a number, got {line.text!r}")
        _check_class(line, match["label"], match["number"], classes)
        yield AnnotatedVideo(
            place=line.place,
            folders=(match["label"], ""),
            file=match["file"],
            labels=(match["label"],),
            group=f"{match['label']}_{match['take']}",
            split=split,
        )


def _check_class(line: Line, label: str, number: str | None, classes: Mapping[str, int]) -> None:
    if label not in classes:
        raise SourceError(line.place, f"class {label!r} is not in {CLASSES_NAME}")
    if number is not None and int(number) != classes[label]:
        raise SourceError(line.place, f"class {label} has the number {number}, in {CLASSES_NAME} {classes[label]}")
