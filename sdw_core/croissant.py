"""What tools that read Croissant learn of an export: its licence, its table and each column.

Croissant is MLCommons' vocabulary for datasets, JSON-LD on top of schema.org's: version 1.0,
http://mlcommons.org/croissant/1.0.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sdw_core.files import sha256_of_file
from sdw_core.licenses import SPDX_PAGE, spdx
from sdw_core.manifest import CROISSANT, TABLE

VERSION = "http://mlcommons.org/croissant/1.0"
_OWN = """
citeAs column equivalentProperty extract field fileProperty fileObject fileSet format
includes isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace
samplingRate separator source subField transform
"""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
} | {term: f"cr:{term}" for term in _OWN.split()}
"""As every file of that version has it."""
KINDS = {
    "observation": "An observation, in the environment's units",
    "action": "An action, in the environment's units, as policies are trained on it",
    "action_clipped": "An action, clipped to the environment's bounds",
}


def write_croissant(
    manifest: dict[str, Any], columns: Iterable[str], cite: str, folder: Path
) -> None:
    """Write what describes the table that lies in the folder.

    Args:
        manifest: what the rows are.
        columns: of the table, named as in `Artifact.frame`.
        cite: BibTeX.
        folder: where the table lies, and where to.
    """
    rows, environment = manifest["rows"], manifest["environment"]["id"]
    source = manifest["source"]
    document: dict[str, Any] = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": VERSION,
        "name": f"{rows} synthetic rows for {environment}",
        "description": f"{rows} rows of an observation and an action, distilled from "
        f"{source['name']}: a policy that is cloned from them alone acts in {environment}.",
        "creator": {"@type": "sc:Organization", "name": "SDW-OBD"},
        "citeAs": cite,
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": TABLE,
                "name": TABLE,
                "contentUrl": TABLE,
                "contentSize": f"{(folder / TABLE).stat().st_size} B",
                "encodingFormat": "application/x-parquet",
                "sha256": sha256_of_file(folder / TABLE),
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": "A synthetic row each.",
                "field": [_field(column) for column in columns],
            }
        ],
    }
    write(document | _license(source.get("license")), folder)


def relicense(folder: Path, license: str) -> None:
    """State another licence in the file that lies in a folder, if one does."""
    if (folder / CROISSANT).exists():
        write(json.loads((folder / CROISSANT).read_text()) | _license(license), folder)


def write(document: dict[str, Any], folder: Path) -> None:
    """Write the file."""
    (folder / CROISSANT).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _license(license: str | None) -> dict[str, str]:
    """By its page at SPDX where that has it; nothing where none was chosen."""
    if license is None:
        return {}
    return {"license": SPDX_PAGE.format(found) if (found := spdx(license)) else license}


def _field(column: str) -> dict[str, Any]:
    kind, _, dimension = column.rpartition("_")
    return {
        "@type": "cr:Field",
        "@id": f"rows/{column}",
        "name": column,
        "description": f"{KINDS[kind]}: dimension {dimension}, from 0.",
        "dataType": "sc:Float",
        "source": {"fileObject": {"@id": TABLE}, "extract": {"column": column}},
    }
