/** report — what a benchmark found: figures that are judged, tables behind them, what was left out; as text and as JSON. */

export type Report = {
  figures: readonly Figure[];
  tables: readonly Table[];
  skipped: readonly Skipped[];
};

export type Figure = {
  what: string;
  value: number;
  /** "×" for a ratio. */
  unit: "×" | "ms" | "MiB" | "MB" | "";
  /** Where nine of ten repetitions of the same runs would lie. */
  range?: readonly [low: number, high: number];
  /** The same ratio of processor time (user and system), which other programs on the machine disturb less. */
  cpu?: number;
  /** At most. Absent: the figure is only reported. */
  aim?: number;
};

export type Table = { title: string; rows: readonly Readonly<Record<string, string | number>>[] };

export type Skipped = { what: string; why: string };

export function asText(name: string, { figures, tables, skipped }: Report): string {
  const parts = tables.map(({ title, rows }) => `${title}\n\n${grid(rows)}`);
  if (figures.length > 0) parts.push(grid(figures.map(figureRow)));
  if (skipped.length > 0) parts.push(skipped.map(({ what, why }) => `skipped: ${what}: ${why}`).join("\n"));
  return `== ${name}\n\n${parts.join("\n\n")}\n`;
}

/** For JSON: every aim with its verdict. */
export function withVerdicts(report: Report): object {
  return {
    ...report,
    figures: report.figures.map((figure) =>
      figure.aim === undefined ? figure : { ...figure, met: figure.value <= figure.aim },
    ),
  };
}

function figureRow({ what, value, unit, range, cpu, aim }: Figure): Record<string, string> {
  return {
    figure: what,
    "": `${shown(value)}${unit === "" || unit === "×" ? unit : ` ${unit}`}`,
    "9 of 10": range === undefined ? "" : range.map(shown).join("–"),
    "CPU time": cpu === undefined ? "" : `${shown(cpu)}×`,
    aim: aim === undefined ? "" : `≤ ${shown(aim)}: ${verdict(value, aim)}`,
  };
}

function verdict(value: number, aim: number): string {
  return value <= aim ? "met" : `missed by ${shown(value - aim)}`;
}

/** Two places where they say something, none for what is large. */
function shown(value: number): string {
  if (Number.isInteger(value) || Math.abs(value) >= 1000) return value.toFixed(0);
  return value.toFixed(Math.abs(value) >= 100 ? 1 : 2);
}

function grid(rows: Table["rows"]): string {
  const heads = [...new Set(rows.flatMap((row) => Object.keys(row)))].filter((head) =>
    rows.some((row) => (row[head] ?? "") !== ""),
  );
  const cells = rows.map((row) =>
    heads.map((head) => {
      const cell = row[head] ?? "";
      return typeof cell === "number" ? shown(cell) : cell;
    }),
  );
  const widths = heads.map((head, at) => Math.max(head.length, ...cells.map((row) => row[at]?.length ?? 0)));
  const isNumber = heads.map((head) => rows.every((row) => typeof (row[head] ?? 0) === "number"));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, at) =>
        isNumber[at] === true ? cell.padStart(widths[at] ?? 0) : cell.padEnd(widths[at] ?? 0),
      )
      .join("  ")
      .trimEnd();
  return [line(heads), ...cells.map(line)].map((text) => `  ${text}`).join("\n");
}
