start({
  show() {
    const run = data.runs[state.run], cell = run.cells[state.image][state.mask];
    at("original").src = data.originals[state.image];
    at("masked").src = cell.masked;
    at("rebuilt").src = cell.rebuilt;
    return { error: cell.error, command: run.command };
  },
});
