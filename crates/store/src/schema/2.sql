-- What each user's dead letters take, so that those who have the most of them make room.
CREATE TABLE dead_by_user (
    uid INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
INSERT INTO dead_by_user SELECT uid, count(*), sum(length(payload) + 128) FROM dead GROUP BY uid;
CREATE INDEX dead_of_user ON dead (uid, number);

CREATE TRIGGER dead_comes AFTER INSERT ON dead BEGIN
    INSERT INTO dead_by_user VALUES (new.uid, 1, length(new.payload) + 128)
    ON CONFLICT (uid) DO UPDATE SET rows = rows + 1, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER dead_goes AFTER DELETE ON dead BEGIN
    UPDATE dead_by_user SET rows = rows - 1, bytes = bytes - length(old.payload) - 128
    WHERE uid = old.uid;
    DELETE FROM dead_by_user WHERE uid = old.uid AND rows <= 0;
END;
