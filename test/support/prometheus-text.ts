/** prometheus-text — a strict reader of Prometheus' text format 0.0.4, which takes nothing that isn't in its grammar. */

export type Family = {
  type: "counter" | "gauge" | "histogram";
  help: string;
  /** By name and labels, as they stand in the text: `legerd_store_bytes{file="log"}`. */
  samples: Map<string, number>;
};

const NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*";
const LABEL = String.raw`[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"`;
const NUMBER = String.raw`[+-]?(?:\d+(?:\.\d+)?(?:e[+-]?\d+)?|Inf|NaN)`;
const SAMPLE = new RegExp(String.raw`^(${NAME})((?:\{${LABEL}(?:,${LABEL})*\})?) (${NUMBER})$`);
const HELP = new RegExp(String.raw`^# HELP (${NAME}) ((?:[^\\\n]|\\[\\n])+)$`);
const TYPE = new RegExp(String.raw`^# TYPE (${NAME}) (counter|gauge|histogram)$`);
/** What the names of a histogram's samples end with. */
const HISTOGRAM_ENDS = ["_bucket", "_sum", "_count"];

/** All families by name. Throws where a line is none, or isn't where it belongs. */
export function parsePrometheusText(text: string): Map<string, Family> {
  if (!text.endsWith("\n")) throw new Error("the last line has no end");
  const families = new Map<string, Family>();
  for (const block of text.slice(0, -1).split("\n\n")) {
    const [helpLine = "", typeLine = "", ...lines] = block.split("\n");
    const [, name = "", help = ""] = HELP.exec(helpLine) ?? fail(helpLine);
    const [, typedName, type] = TYPE.exec(typeLine) ?? fail(typeLine);
    if (typedName !== name || families.has(name)) fail(typeLine);
    if (type !== "counter" && type !== "gauge" && type !== "histogram") return fail(typeLine);
    const names = type === "histogram" ? HISTOGRAM_ENDS.map((end) => name + end) : [name];
    const samples = new Map<string, number>();
    for (const line of lines) {
      const [, sampleName = "", labels = "", value = ""] = SAMPLE.exec(line) ?? fail(line);
      const key = sampleName + labels;
      if (!names.includes(sampleName) || samples.has(key)) fail(line);
      samples.set(key, Number(value.replace("Inf", "Infinity")));
    }
    families.set(name, { type, help, samples });
  }
  return families;
}

function fail(line: string): never {
  throw new Error(`not Prometheus' text format: ${JSON.stringify(line)}`);
}
