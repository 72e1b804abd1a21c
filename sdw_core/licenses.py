"""Licences of exports: by their ids, as SPDX and dataset hubs have them."""

import re
from difflib import get_close_matches
from typing import Any

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from sdw_core.errors import InputError
from sdw_core.validation import shown

_HUB = """\
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
fair-noncommercial-research-license
"""
HUB = frozenset(_HUB.split())
"""What a hub takes as `license`; its ids of single models' licences, which no dataset is under,
and `unknown` and `other`, which are none, left out."""
SPDX_PAGE = "https://spdx.org/licenses/{}.html"


def require_license(license: str) -> str:
    """A licence that a user chose, as the hub or SPDX spells it.

    >>> require_license("CC-BY-4.0"), require_license("bsd-4-clause")
    ('cc-by-4.0', 'BSD-4-Clause')

    Raises:
        InputError: it is no id of a licence.
    """
    if isinstance(license, str) and license.lower() in HUB:
        return license.lower()
    spelled = spdx(license) if isinstance(license, str) else None
    if spelled is None:
        close = get_close_matches(str(license).lower(), HUB, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "give such an id."
        raise InputError(
            "A licence is chosen by its id at https://spdx.org/licenses or on the dataset hub, as "
            f"in `cc-by-4.0`, not {shown(license)}: {hint}"
        )
    return spelled


def spdx(license: str) -> str | None:
    """The id as SPDX spells it; None: it is not one of SPDX's."""
    if not re.fullmatch(r"(?!licenseref)[a-z0-9.+-]+", license.lower()):
        return None
    try:
        return canonicalize_license_expression(license)
    except InvalidLicenseExpression:
        return None


def front_of(license: str | None) -> dict[str, Any]:
    """What the front matter of a card says of a licence; None: that none was chosen.

    >>> front_of("BSD-4-Clause")["license_name"], front_of("as is, ask me")["license_name"]
    ('bsd-4-clause', 'as-is-ask-me')
    """
    if license is None:
        return {"license": "unknown"}
    if license.lower() in HUB:
        return {"license": license.lower()}
    name = re.sub(r"[^a-z0-9.+-]+", "-", license.lower()).strip("-")[:100] or "as-stated"
    link = {"license_link": SPDX_PAGE.format(found)} if (found := spdx(license)) else {}
    return {"license": "other", "license_name": name} | link
