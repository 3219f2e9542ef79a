"""A problem, and the record that a model without faults makes of it."""

from model_replies import Model, drive, problem

from mvjax.curator import llm

SETTINGS = llm.Settings()
PROBLEM = problem(3, nested=2)
PERFECT, MADE = drive(llm.curate(PROBLEM, SETTINGS), Model().answer)


def curate(faults=None, made=PROBLEM, **changes):
    return drive(llm.curate(made, llm.Settings(**changes)), Model(faults or {}).answer)


def stages(made):
    return [call.stage for call, _ in made]
