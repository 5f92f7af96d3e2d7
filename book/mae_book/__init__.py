"""The book's own code: claims and their verdicts (``verdicts``), the sweep's cells and experiments
(``sweep``), figures and tables of the chapters (``chapters``), explorers (``explorers``), and the
book's commands (``commands``). It imports `mae_lib`, never the other way round.
"""
