"""The sets of the catalog, small ones first; those of full size come from where they are kept."""

from jaxseq.data.catalog import CatalogFile, DataSet

_OPENSLR = "https://www.openslr.org/resources/12"
_SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset"

_LIBRISPEECH = {
    "train-clean-100": "d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2",
    "train-clean-360": "146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf",
    "train-other-500": "ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2",
    "dev-clean": "76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3",
    "dev-other": "12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365",
    "test-clean": "39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23",
    "test-other": "d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29",
}


def _librispeech(part: str, sha256: str) -> CatalogFile:
    url = f"{_OPENSLR}/{part}.tar.gz"
    return CatalogFile(f"speech/librispeech/{part}", url, sha256, f"LibriSpeech/{part}")


def _squad(part: str, sha256: str) -> CatalogFile:
    return CatalogFile(f"qa/{part}.json", f"{_SQUAD}/{part}.json", sha256)


def _hub(name: str, *splits: str) -> dict[str, str]:
    return {split: f"hf://{name}?split={split}" for split in splits}


CATALOG = (
    DataSet(
        "eng-fra",
        "English-French sentence pairs of Tatoeba, short ones",
        "https://www.manythings.org/anki/",
        "CC BY 2.0 (France), tatoeba.org",
        {
            "train": CatalogFile(
                "translation/eng-fra.train.tsv",
                "",
                "30aeba6e794b8b9e8a9accf48a411c73f723f193831436c5af8d912d1eac0b63",
            ),
            "validation": CatalogFile(
                "translation/eng-fra.dev.tsv",
                "",
                "868837869dfda3f88ce52ab4cd4ea940ca41105b369590827ff66a69b7a17bd8",
            ),
            "test": CatalogFile(
                "translation/eng-fra.test.tsv",
                "",
                "f2c652e305b7bfc47ebeb82a804b87f249560bd648a9660efae38ac598c6a1cd",
            ),
        },
    ),
    DataSet(
        "cmudict",
        "English words and their phonemes",
        "https://github.com/cmusphinx/cmudict",
        "BSD-2-Clause-like",
        {
            "train": CatalogFile(
                "g2p/cmudict.train.tsv",
                "",
                "4830258f35fbdc5177a1ab36dd47fa403ad16dec4430d4d387c8b3fed571b9c4",
            ),
            "validation": CatalogFile(
                "g2p/cmudict.dev.tsv",
                "",
                "06296d9f0529a41d0ffaf41e54ab7a5b4ed4188b9f9c819fd1ce234884fbd122",
            ),
            "test": CatalogFile(
                "g2p/cmudict.test.tsv",
                "",
                "a43b916a5bb253846e2902f1c4f9be2e462ea7fa68b9756cb9153a73ffa609c0",
            ),
        },
    ),
    DataSet(
        "rt-polarity",
        "film review sentences, positive or negative (Pang and Lee 2005)",
        "https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        "not stated",
        {
            "train": CatalogFile(
                "sentiment/rt_polarity.train.tsv",
                "",
                "a482694f57ada348ad0c7d1401155a235eaf713b4f81d59e3ec9de4e4a8dfa0f",
            ),
            "validation": CatalogFile(
                "sentiment/rt_polarity.dev.tsv",
                "",
                "0c5319d14191b8cc0ec9432aec55c702ba965ce5c126744d6641910ab5ef3bc4",
            ),
            "test": CatalogFile(
                "sentiment/rt_polarity.test.tsv",
                "",
                "0ff0496e6a2dc38c95bdd8c6b79a5f804872affd2247df78a5ae8fa54ceea7c6",
            ),
        },
    ),
    DataSet(
        "en-ewt",
        "words and parts of speech, UD English EWT",
        "https://github.com/UniversalDependencies/UD_English-EWT",
        "CC BY-SA 4.0",
        {
            "train": CatalogFile(
                "tagging/en_ewt.train.tsv",
                "",
                "f66337dc7c394a1f497ddce9714c77f2bb296eb3721e01ed313d5a40eb5db6c9",
            ),
            "validation": CatalogFile(
                "tagging/en_ewt.dev.tsv",
                "",
                "ac7b79f3411079d8dca268d824ce4b36e25c9ba839ccd64067024d2ac18fba8d",
            ),
            "test": CatalogFile(
                "tagging/en_ewt.test.tsv",
                "",
                "ead3f5bc8fe6026fa56cebf36b682bf79b165ff19762ad2bed0120039f6033ad",
            ),
        },
    ),
    DataSet(
        "scitldr",
        "abstracts of papers and their one-sentence summaries",
        "https://github.com/allenai/scitldr",
        "Apache-2.0",
        {
            "train": CatalogFile(
                "summarisation/scitldr_a.train.jsonl",
                "",
                "2d642b9ac2ff3c53e84a7e875a081147e02a2d09217474072ef3bc6af61989ad",
            ),
            "validation": CatalogFile(
                "summarisation/scitldr_a.dev.jsonl",
                "",
                "c25c3d4476cb6bd1f62ea486e709481534aadf9b56a38d4c778d69715d2d3ede",
            ),
        },
    ),
    DataSet(
        "squad-slices",
        "slices of SQuAD 1.1 by article",
        "https://rajpurkar.github.io/SQuAD-explorer/",
        "CC BY-SA 4.0",
        {
            "train-slice": CatalogFile(
                "qa/squad11.train-slice.json",
                "",
                "9d0f60207ff63ea827da9d9d5852a6cff971fd50ae73db18e2a19c1c8b735cc0",
            ),
            "train": CatalogFile(
                "qa/squad11.train.json",
                "",
                "eb7aa8cf5cfdbd18f67c35fdd0818f17cb453ec2f285436dc8330d0b5c4f88ca",
            ),
            "validation": CatalogFile(
                "qa/squad11.dev.json",
                "",
                "a666618496f44079be669be7fbd411270c34df2e517373c00c8b1c47d6746f8c",
            ),
        },
    ),
    DataSet(
        "names",
        "English given names, one a line",
        "https://github.com/karpathy/makemore",
        "MIT",
        {
            "all": CatalogFile(
                "names/names.txt",
                "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
                "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
            ),
        },
    ),
    DataSet(
        "names-by-language",
        "names and their language, 18 of them",
        "https://github.com/spro/practical-pytorch",
        "MIT",
        {
            "all": CatalogFile(
                "names/names_by_language.tsv",
                "",
                "b23c71fd35ab1f6d06d671b5cb5b76a44686059d112e290b550a08b3e1b32aff",
            ),
        },
    ),
    DataSet(
        "tinyshakespeare",
        "a megabyte of Shakespeare",
        "https://github.com/karpathy/char-rnn",
        "MIT; the plays are in the public domain",
        {
            "all": CatalogFile(
                "lm/tinyshakespeare.txt",
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        },
    ),
    DataSet(
        "bert-vocabulary",
        "the WordPiece vocabulary of BERT, uncased",
        "https://huggingface.co/google-bert/bert-base-uncased",
        "Apache-2.0",
        {
            "all": CatalogFile(
                "vocab/bert-base-uncased-vocab.txt",
                "https://huggingface.co/google-bert/bert-base-uncased/resolve/main/vocab.txt",
                "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
            ),
        },
    ),
    DataSet(
        "spoken-digits",
        "the Free Spoken Digit Dataset, four speakers",
        "https://github.com/Jakobovski/free-spoken-digit-dataset",
        "CC BY-SA 4.0",
        {
            "all": CatalogFile("speech/fsdd"),
        },
    ),
    DataSet(
        "ljspeech-sample",
        "eight utterances of LJSpeech at 16 kHz",
        "https://keithito.com/LJ-Speech-Dataset/",
        "public domain",
        {
            "all": CatalogFile("speech/ljspeech16k"),
        },
    ),
    DataSet(
        "squad",
        "SQuAD 1.1, whole: questions whose answers stand in an article",
        "https://rajpurkar.github.io/SQuAD-explorer/",
        "CC BY-SA 4.0",
        {
            "train": _squad(
                "train-v1.1", "3527663986b8295af4f7fcdff1ba1ff3f72d07d61a20f487cb238a6ef92fd955"
            ),
            "validation": _squad(
                "dev-v1.1", "95aa6a52d5d6a735563366753ca50492a658031da74f301ac5238b03966972c9"
            ),
        },
    ),
    DataSet(
        "squad-2",
        "SQuAD 2.0, whole: some questions have no answer",
        "https://rajpurkar.github.io/SQuAD-explorer/",
        "CC BY-SA 4.0",
        {
            "train": _squad(
                "train-v2.0", "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002"
            ),
            "validation": _squad(
                "dev-v2.0", "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8"
            ),
        },
    ),
    DataSet(
        "librispeech",
        "read English books, 16 kHz (Panayotov et al. 2015)",
        "https://www.openslr.org/12",
        "CC BY 4.0",
        {part: _librispeech(part, sha256) for part, sha256 in _LIBRISPEECH.items()},
    ),
    DataSet(
        "ljspeech",
        "one speaker reads 24 hours of English books, 22 kHz",
        "https://keithito.com/LJ-Speech-Dataset/",
        "public domain",
        {
            "all": CatalogFile(
                "speech/ljspeech",
                "https://data.keithito.com/data/speech/LJSpeech-1.1.tar.bz2",
                "be1a30453f28eb8dd26af4101ae40cbf2c50413b1bb21936cbcdc6fae3de8aa5",
                "LJSpeech-1.1",
            )
        },
    ),
    DataSet(
        "wmt14-fr-en",
        "English and French of WMT 2014: 40 million pairs",
        "https://www.statmt.org/wmt14/translation-task.html",
        "of each of its corpora",
        _hub("wmt/wmt14/fr-en", "train", "validation", "test"),
    ),
    DataSet(
        "iwslt2017-en-fr",
        "English and French of TED talks, IWSLT 2017",
        "https://sites.google.com/site/iwsltevaluation2017/",
        "CC BY-NC-ND 4.0",
        _hub("IWSLT/iwslt2017/iwslt2017-en-fr", "train", "validation", "test"),
    ),
    DataSet(
        "multi30k-en-de",
        "English and German captions of pictures",
        "https://github.com/multi30k/dataset",
        "not stated for the texts",
        _hub("bentrevett/multi30k", "train", "validation", "test"),
    ),
    DataSet(
        "sst2",
        "film review sentences, positive or negative (Socher et al. 2013)",
        "https://nlp.stanford.edu/sentiment/",
        "not stated",
        _hub("stanfordnlp/sst2", "train", "validation"),
    ),
    DataSet(
        "imdb",
        "film reviews, positive or negative (Maas et al. 2011)",
        "https://ai.stanford.edu/~amaas/data/sentiment/",
        "not stated",
        _hub("stanfordnlp/imdb", "train", "test"),
    ),
    DataSet(
        "cnn-dailymail",
        "articles and their highlights",
        "https://github.com/abisee/cnn-dailymail",
        "Apache-2.0",
        _hub("abisee/cnn_dailymail/3.0.0", "train", "validation", "test"),
    ),
)
"""All that has a name."""
