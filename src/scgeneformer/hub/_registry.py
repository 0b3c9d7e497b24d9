"""Models that are loaded by name: path in their official repository, sha256 and size of each file.

Source: the file lists of https://huggingface.co/ctheodoris/Geneformer and https://huggingface.co/theodoris-lab/MaxToki (both Apache-2.0) at the
revisions below. Files are verified by sha256 and size alone; the revision is the first place to look for them.
"""

from __future__ import annotations

from dataclasses import dataclass

GENEFORMER, MAXTOKI = "ctheodoris/Geneformer", "theodoris-lab/MaxToki"
_REVISIONS = {
    GENEFORMER: "05fcbeb8a27d49e0a7a4349152202ee2c1cbfd28",
    MAXTOKI: "21aa7b7f844c146c16fb79ffb3aa75d9b07a3d77",
}
BERT, LLAMA, CELLFM = "BERT encoder", "LLaMA decoder", "CellFM encoder"  # as `kind` of the classes in `nn`
DEFAULT = "default"


@dataclass(frozen=True)
class RemoteFile:
    """File of an official repository; `path` is also its path in the cache folder and in a mirror, where all repositories are one tree.

    Without `sha256` and `size`, which are not known of every file, those of the first download are pinned in the cache.
    """

    path: str
    sha256: str | None = None
    size: int | None = None
    repository: str = GENEFORMER

    @property
    def sources(self) -> tuple[str, ...]:
        """Addresses of the repository's tree: at the pinned revision, and on the branch, in case its history is rewritten."""
        base = f"https://huggingface.co/{self.repository}/resolve"
        return f"{base}/{_REVISIONS[self.repository]}/", f"{base}/main/"


@dataclass(frozen=True)
class Generation:
    """Dictionaries shared by a family of models.

    `parsed` is the file of the vocabulary that they make, which this package writes into the cache and reads in their place.
    """

    name: str
    n_tokens: int
    max_length: int
    tokens: RemoteFile
    medians: RemoteFile
    mapping: RemoteFile
    names: RemoteFile
    parsed: RemoteFile | None = None

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """The four dictionaries."""
        return self.tokens, self.medians, self.mapping, self.names


@dataclass(frozen=True)
class Model:
    """Published checkpoint: shape, dictionaries and the two files of its folder."""

    name: str
    generation: str
    backbone: str
    n_layers: int
    width: int
    parameters: int
    config: RemoteFile
    weights: RemoteFile
    licence: str
    description: str
    classifier: str | None = None  # the class in `model` that reads its head

    @property
    def files(self) -> tuple[RemoteFile, ...]:
        """Files of the model's folder, in the Hugging Face layout."""
        return self.config, self.weights

    @property
    def source(self) -> str:
        """Repository on Hugging Face and folder in it."""
        return f"{self.weights.repository}/{self.weights.path.rpartition('/')[0]}"


_V1 = Generation(
    name="V1",
    n_tokens=25_426,
    max_length=2048,
    tokens=RemoteFile(
        "geneformer/gene_dictionaries_30m/token_dictionary_gc30M.pkl",
        "ab9dc40973fa5224d77b793e2fd114cacf3d08423ed9c4c49caf0ba9c7f218f1",
        788_424,
    ),
    medians=RemoteFile(
        "geneformer/gene_dictionaries_30m/gene_median_dictionary_gc30M.pkl",
        "b3b589bb5ec75040d05fc44dd6bf0184cf87f3c362cf158d196a6ed3b7fe5f39",
        940_965,
    ),
    mapping=RemoteFile(
        "geneformer/gene_dictionaries_30m/ensembl_mapping_dict_gc30M.pkl",
        "eac0fb0b3007267871b6305ac0003ceba19d4f28d85686cb9067ecf142787869",
        584_125,
    ),
    names=RemoteFile(
        "geneformer/gene_dictionaries_30m/gene_name_id_dict_gc30M.pkl",
        "55e67962e79c0039a6c32d43c5c99f38e51964bbcfa32f736150ee1e285c438c",
        1_117_117,
    ),
    parsed=RemoteFile(
        "vocabularies/V1.json", "6a06c588f091d290d2bc7c2fd8158f26e0df93111ebbe62a4ceb891b0cbfaa4e", 1_807_682
    ),
)
_V2 = Generation(
    name="V2",
    n_tokens=20_275,
    max_length=4096,
    tokens=RemoteFile(
        "geneformer/token_dictionary_gc104M.pkl",
        "67c445f4385127adfc48dcc072320cd65d6822829bf27dd38070e6e787bc597f",
        425_590,
    ),
    medians=RemoteFile(
        "geneformer/gene_median_dictionary_gc104M.pkl",
        "a51c53f6a771d64508dfaf61529df70e394c53bd20856926117ae5d641a24bf5",
        1_512_661,
    ),
    mapping=RemoteFile(
        "geneformer/ensembl_mapping_dict_gc104M.pkl",
        "0819bcbd869cfa14279449b037eb9ed1d09a91310e77bd1a19d927465030e95c",
        3_957_652,
    ),
    names=RemoteFile(
        "geneformer/gene_name_id_dict_gc104M.pkl",
        "fabfa0c2f49c598c59ae432a32c3499a5908c033756c663b5e0cddf58deea8e1",
        1_660_882,
    ),
    parsed=RemoteFile(
        "vocabularies/V2.json", "6587550736c6bcfab111fd22c4c0990274e5f94001694c104b1178c7ddc7a481", 3_062_801
    ),
)
GENERATIONS = {generation.name: generation for generation in (_V1, _V2)}


def _model(
    name: str, shape: tuple[int, int, int], config: tuple[str, int], weights: tuple[str, int], description: str
) -> Model:
    folder = f"Geneformer-{name}"
    return Model(
        name,
        name.partition("-")[0],
        BERT,
        *shape,
        config=RemoteFile(f"{folder}/config.json", *config),
        weights=RemoteFile(f"{folder}/model.safetensors", *weights),
        licence="Apache-2.0",
        description=description,
    )


def _cell_classifier(name: str, parameters: int, folder: str, weights: tuple[str, int], description: str) -> Model:
    """A fine-tuned V1-10M, of whose ``config.json`` no hash was published."""
    folder = f"fine_tuned_models/{folder}"
    return Model(
        name,
        "V1",
        BERT,
        6,
        256,
        parameters,
        config=RemoteFile(f"{folder}/config.json"),
        weights=RemoteFile(f"{folder}/pytorch_model.bin", *weights),
        licence="Apache-2.0",
        description=description,
        classifier="CellClassifier",
    )


def _maxtoki(size: str, shape: tuple[int, int, int], config: tuple[str, int], weights: tuple[str, int]) -> Model:
    """A MaxToki, whose dictionaries are those of V2, with ``<bos>`` for ``<cls>``."""
    name = f"MaxToki-{size}"
    return Model(
        name,
        "V2",
        LLAMA,
        *shape,
        config=RemoteFile(f"{name}-HF/config.json", *config, MAXTOKI),
        weights=RemoteFile(f"{name}-HF/model.safetensors", *weights, MAXTOKI),
        licence="Apache-2.0",
        description="MaxToki 2026; pretrained to predict the next gene of a cell, not its time",
    )


MODELS = {
    model.name: model
    for model in (
        _model(
            "V1-10M",
            (6, 256, 10_288_722),
            ("9cf69ca3bdb0215c4188b54c451b6f02adfe68b8f66011a57d0f32845133fd4b", 565),
            ("a5e33a757431643b3697de7ef6127950cdc49e06e58d4266b3a3ab191b683f14", 41_183_536),
            "Theodoris 2023; pretrained on 30 million human cells",
        ),
        _model(
            "V2-104M",
            (12, 768, 104_386_867),
            ("467d4492f0dd53b4d60afffe20812db484ca1cf9fdbeb6a6e060e93564f70859", 590),
            ("fff5cba29ddd8792991fa77b4872246fbe548a178cebda3775cdc72b67780e7f", 417_571_156),
            "Chen 2024; pretrained on 104 million human cells",
        ),
        _model(
            "V2-104M_CLcancer",
            (12, 768, 104_386_867),
            ("b3e1f3e71b1df7238f0f1d6dda258d560ea84e5e9698351a1588cfad06321e18", 762),
            ("827738139bfed4bafa9d1f3df7c6146da2e3b85f7225076adc32c6eda0ba4357", 417_571_156),
            "V2-104M, pretrained further on cancer cells",
        ),
        _model(
            "V2-316M",
            (18, 1152, 316_354_867),
            ("2cc4af3442644e84af71814a607b61c958d7b4e5ebde6791ab77b5f534ac6f6e", 591),
            ("965ceccea81953d362081ef3843560a0e4fef88d396c28017881f1e94b1246f3", 1_265_455_076),
            "Chen 2024; pretrained on 104 million human cells, the largest",
        ),
        _cell_classifier(
            "V1-10M_CellClassifier_cardiomyopathies",
            10_263_555,
            "Geneformer-V1-10M_CellClassifier_cardiomyopathies_220224",
            ("12ead3bad8cf4b853bac87eadeb79c9308ae492e9d29f32da1a2c85e8586108d", 41_115_113),
            "Theodoris 2023; V1-10M, fine-tuned to distinguish cells of non-failing, hypertrophic and dilated hearts",
        ),
        _maxtoki(
            "217M",
            (11, 1232, 216_946_576),
            ("a4effbdf27969b7cc4d6cce34fc24b3f2134886946a19e7999c3ebd08babf9bd", 676),
            ("9da1fbf8cc489486d158d4653a14e3f44ac49c75a8e1480566eab0e9f99cf898", 867_797_760),
        ),
        _maxtoki(
            "1B",
            (20, 2304, 1_049_036_544),
            ("23358e6663b32e796dec2818a1d9cff97eb9e150d259850ba26b1bf2144eba9e", 823),
            ("96c6c8f9d61732c9bedfc37a9cfd937359e6ce0bfa860526646d101815a242e6", 4_196_167_128),
        ),
    )
}


def find(name: object) -> Model | None:
    """The model of this name, or with this source; None if there is none."""
    return next((model for model in MODELS.values() if name in (model.name, model.source)), None)
