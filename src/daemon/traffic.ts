/** traffic — how often what was asked for, how it was answered, and how long that took. */
import type { Route } from "./routes.ts";

/** Upper bounds of the classes that durations are counted in, in seconds, ascending. A read takes a tenth of a millisecond. */
export const DURATION_BOUNDS = [
  0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
] as const;

const BOUNDS_MS = DURATION_BOUNDS.map((seconds) => seconds * 1_000);

/** What is known of the requests for one route. */
export type RouteTraffic = {
  byStatus: ReadonlyMap<number, number>;
  /** How many took up to each bound and longer than the one before; the last are those beyond all bounds. */
  durations: readonly number[];
  totalMs: number;
};

type Counted = { byStatus: Map<number, number>; durations: number[]; totalMs: number };

/** Counts the answers of all doors. It is in the way of every request, and so no more than a few additions. */
export class Traffic {
  readonly #routes = new Map<Route | undefined, Counted>();

  /** `route` is undefined for what no route of ours is for, or could not be read. */
  count(route: Route | undefined, status: number, tookMs: number): void {
    let counted = this.#routes.get(route);
    if (counted === undefined) {
      counted = { byStatus: new Map(), durations: [...BOUNDS_MS.map(() => 0), 0], totalMs: 0 };
      this.#routes.set(route, counted);
    }
    const { byStatus, durations } = counted;
    byStatus.set(status, (byStatus.get(status) ?? 0) + 1);
    let at = 0;
    while (at < BOUNDS_MS.length && tookMs > (BOUNDS_MS[at] ?? 0)) at += 1;
    durations[at] = (durations[at] ?? 0) + 1;
    counted.totalMs += tookMs;
  }

  /** Routes that nobody has asked for are not among them. */
  get routes(): ReadonlyMap<Route | undefined, RouteTraffic> {
    return this.#routes;
  }
}
