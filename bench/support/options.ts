/** options — what all benchmarks can be told. */
export type Options = {
  /** How often each case is run. Absent: as often as its benchmark finds right. */
  rounds: number | undefined;
  /** How large a file to search is. Absent: large. */
  mib?: number | undefined;
};
