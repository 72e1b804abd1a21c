"""What the SDW paper (arXiv 2512.06692) says of training loss, errors and coverage, measured.

misalignment    return against training loss, on a diverse dataset and on a narrow, better one
errors          error where the expert goes, and where the policy goes instead, against return
coverage        which states a synthetic set holds: their density and their diversity

docs/analyses.md has the definitions, which are ours, and what was found.
"""
