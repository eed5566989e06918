/** files — the little that must be known of files before legerd is asked; each runtime brings its own. */

export type FileStatus = {
  /** inode(7): type and permissions. */
  mode: number;
  uid: number;
  /** What a device file stands for; 0 for all else. */
  rdev: number;
};

export interface Files {
  /** Of the file itself, also where it is a symlink. Throws a system error. */
  lstat(path: string): FileStatus;
  /** Of an open file. Throws a system error. */
  fstat(fd: number): FileStatus;
  /** A file of /proc as text; undefined where there is none, or no /proc. */
  readText(path: string): string | undefined;
}
