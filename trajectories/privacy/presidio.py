"""Names, places and whatever else Microsoft's Presidio recognises: the extra `presidio`.

Slow (a language model reads every text) and therefore not on by default. Its
model is not downloaded here: `python -m spacy download en_core_web_sm`.
"""

from collections.abc import Iterable
from pathlib import Path

from trajectories.errors import SettingsError
from trajectories.privacy.personal import Find, Span

LANGUAGE = "en"
MODEL = "en_core_web_sm"
LEAST_SCORE = 0.5
# Dates and the like are no person's: taking them out would take the sense out, too.
_LEFT_ALONE = frozenset({"DATE_TIME", "URL", "NRP"})


def open_presidio(model: str = MODEL) -> Find:
    """A finder for the scrub; `model` is a spaCy package or a directory.

    Raises SettingsError when Presidio or the model is not installed.
    """
    try:
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import NlpEngineProvider
    except ImportError as error:
        message = 'privacy.scrub: "presidio" needs `pip install ratchet-gateway[presidio]`'
        raise SettingsError(message) from error
    import spacy  # Presidio brings it along

    # Presidio would fetch it from the network by itself.
    if not spacy.util.is_package(model) and not Path(model).is_dir():
        message = f'privacy.scrub: "presidio" needs `python -m spacy download {model}`'
        raise SettingsError(message)
    configuration = {
        "nlp_engine_name": "spacy",
        "models": [{"lang_code": LANGUAGE, "model_name": model}],
    }
    nlp = NlpEngineProvider(nlp_configuration=configuration).create_engine()
    engine = AnalyzerEngine(nlp_engine=nlp, supported_languages=[LANGUAGE])

    def find(text: str) -> Iterable[Span]:
        for found in engine.analyze(text, language=LANGUAGE, score_threshold=LEAST_SCORE):
            if found.entity_type not in _LEFT_ALONE:
                yield Span(found.start, found.end, found.entity_type)

    return find
