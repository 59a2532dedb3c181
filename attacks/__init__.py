"""The attacks: one file an algorithm, one line each in the table by which the registry finds them."""

CATALOGUE = {
    "fgsm": "fgsm:FGSM",
    "bim": "bim:BIM",
    "pgd": "pgd:PGD",
    "carlini_wagner": "carlini_wagner:CarliniWagner",
    "carlini_wagner_linf": "carlini_wagner:CarliniWagnerLinf",
    "foolbox:*": "backends.foolbox:find",
    "art:*": "backends.art:find",
}
