/** page — what a quickstart looks like: numbered steps, commands, results, times on the right. */

export type PageOptions = {
  write: (text: string) => void;
  colours: boolean;
  /** Of the terminal, where it is one. */
  columns: number | undefined;
};

export class Page {
  readonly #write: (text: string) => void;
  readonly #colours: boolean;
  readonly #width: number;
  #step = 0;

  constructor({ write, colours, columns = 80 }: PageOptions) {
    this.#write = write;
    this.#colours = colours;
    this.#width = Math.min(Math.max(columns, 60), 90);
  }

  title(text: string): void {
    this.#line(this.#bold(text));
  }

  /** What has to be known beside the results. */
  say(...lines: readonly string[]): void {
    for (const line of lines) this.#line(line);
  }

  gap(): void {
    this.#line("");
  }

  step(title: string): void {
    this.#step += 1;
    this.#line(`\n${this.#bold(`${this.#step}. ${title}`)}`);
  }

  /** A line as it would be typed, and how long it took. */
  command(line: string, ms?: number): void {
    this.#line(`   ${this.#dim("$")} ${line}`, 5 + line.length, ms);
  }

  result(text: string, ms?: number): void {
    this.#line(`     ${text}`, 5 + text.length, ms);
  }

  /** Why something is not shown: another program's words, cut where they are long. */
  reason(what: string, why: string): void {
    this.result(what);
    this.result(why.length > 300 ? `${why.slice(0, 299)}…` : why);
  }

  /** Names and what they are, in two columns. */
  list(rows: readonly (readonly [string, string])[]): void {
    const width = Math.max(...rows.map(([name]) => name.length));
    for (const [name, text] of rows) this.result(`${name.padEnd(width)}  ${text}`);
  }

  #line(text: string, length = 0, ms?: number): void {
    const time = ms === undefined ? "" : shown(ms);
    const gap = " ".repeat(Math.max(2, this.#width - length - time.length));
    this.#write(time === "" ? `${text}\n` : `${text}${gap}${this.#dim(time)}\n`);
  }

  #bold(text: string): string {
    return this.#colours ? `\u001B[1m${text}\u001B[0m` : text;
  }

  #dim(text: string): string {
    return this.#colours ? `\u001B[2m${text}\u001B[0m` : text;
  }
}

function shown(ms: number): string {
  return ms < 1_000 ? `${Math.round(ms)} ms` : `${(ms / 1_000).toFixed(1)} s`;
}
